"""The weight rule that all golden data rest on: `golden_data.weight` gives the recorded numbers.

Nothing of the project runs here, so nothing of it goes into the table of parity.
"""

from __future__ import annotations

import numpy as np
import pytest
from golden_data import Golden, golden_parameters, weight

MODELS = ("v3_r50", "v2_r50", "v1_r101_H1", "v1_r101_H4")


@pytest.mark.parametrize(("file", "name"), golden_parameters("weight_rule_check", MODELS))
def test_golden(golden, file, name):
    record = Golden(golden, file)[name]
    assert record["entries"]
    for key, expected in record["entries"].items():
        value = weight(key, tuple(expected["shape"]), record["seed"], v1=name.startswith("v1"))
        first = np.asarray(expected["first"])
        np.testing.assert_allclose(value.ravel()[: len(first)], first, rtol=1e-6, atol=1e-6, err_msg=key)
        wide = value.astype(np.float64)
        statistics = value.ravel()[-1], wide.mean(), wide.std()
        recorded = expected["last"], expected["mean"], expected["std"]
        np.testing.assert_allclose(statistics, recorded, rtol=1e-6, atol=1e-6, err_msg=key)
