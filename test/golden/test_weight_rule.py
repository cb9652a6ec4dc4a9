"""The weight rule that all golden data rest on."""

from __future__ import annotations

import numpy as np
import pytest
from golden_data import Golden, golden_parameters, weight

MODELS = ("v3_r50", "v2_r50", "v1_r101_H1", "v1_r101_H4")


@pytest.mark.parametrize(("file", "name"), golden_parameters("weight_rule_check", MODELS))
def test_golden(golden, file, name):
    data = Golden(golden, file)
    if name not in data:
        pytest.skip(f"the folder's file does not hold this case: {name}")
    record = data[name]
    for key, expected in record["entries"].items():
        value = weight(key, tuple(expected["shape"]), record["seed"], v1=name.startswith("v1"))
        first = np.asarray(expected["first"])
        label = f"{name}/{key}"
        data.check(f"{label}/first", value.ravel()[: len(first)], 1e-6, 1e-6, expected=first)
        statistics = value.ravel()[-1], value.astype(np.float64).mean(), value.astype(np.float64).std()
        expected_statistics = [expected["last"], expected["mean"], expected["std"]]
        data.check(label, np.array(statistics), 1e-6, 1e-6, expected=np.array(expected_statistics))
