"""Every path of the operator against the recorded values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_data import Golden, golden_parameters
from ops.paths import PATHS, aggregation

from cuda_ops import reference
from cuda_ops.deformable_aggregation import per_point

FILE = "deformable_aggregation"
CASES = [f"case{i}" for i in range(8)]


def _check(data: Golden, key: str, actual: torch.Tensor, path: str) -> None:
    """The stated 1e-5 absolute (3e-5 in case 7), or some roundings of float32 at the array's magnitude if that is more.

    Gradients of locations reach 800, where float32 numbers are 6e-5 apart: no float32 result can be within 3e-5. The
    kernels get 8 roundings, one part in a million; grid_sample in the reference rounds each location three times and
    gets 16. That the definition itself has no error to hide is tested in float64, to 1e-9, below.
    """
    absolute = 3e-5 if key.startswith("case7") else 1e-5
    rounding = np.finfo(np.float32).eps * float(np.abs(data[key]).max(initial=0.0))
    data.check(key, actual, atol=max(absolute, (16 if path == "reference" else 8) * rounding))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("file", "case"), golden_parameters(FILE, CASES))
def test_golden(golden, file, case, path):
    data = Golden(golden, file)
    if f"{case}_output" not in data:
        pytest.skip(f"{file} of this folder has no {case}")
    tensor = {name: data.tensor(f"{case}_{name}") for name in ("mc_ms_feat", "sampling_location", "weights")}
    for value in tensor.values():
        value.requires_grad_()
    tables = data.tensor(f"{case}_spatial_shape"), data.tensor(f"{case}_scale_start_index")
    with aggregation(path) as aggregate:
        output = aggregate(tensor["mc_ms_feat"], *tables, tensor["sampling_location"], tensor["weights"])
        output.backward(data.tensor(f"{case}_grad_output"))
    _check(data, f"{case}_output", output, path)
    _check(data, f"{case}_grad_feat", tensor["mc_ms_feat"].grad, path)
    _check(data, f"{case}_grad_location", tensor["sampling_location"].grad, path)
    _check(data, f"{case}_grad_weights", tensor["weights"].grad, path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("file", "case"), golden_parameters(FILE, ["legacy"]))
def test_golden_older_signature(golden, file, case, path):
    data = Golden(golden, file)
    names = ("mc_ms_feat", "spatial_shape", "scale_start_index", "sampling_location", "weights")
    with aggregation(path) as aggregate:
        output = per_point(aggregate, *(data.tensor(f"{case}_{name}") for name in names))
    _check(data, f"{case}_output", output, path)


@pytest.mark.parametrize(("file", "case"), golden_parameters(FILE, CASES))
def test_golden_reference_in_double_precision(golden, file, case):
    """In float64 the definition gives the recorded numbers to their last stored digit."""
    data = Golden(golden, file)
    if f"{case}_output" not in data:
        pytest.skip(f"{file} of this folder has no {case}")
    names = ("mc_ms_feat", "sampling_location", "weights")
    features, location, weights = (data.tensor(f"{case}_{name}").double().requires_grad_() for name in names)
    shapes, starts = data.tensor(f"{case}_spatial_shape"), data.tensor(f"{case}_scale_start_index")
    output = reference.deformable_aggregation(features, shapes, starts, location, weights)
    output.backward(data.tensor(f"{case}_grad_output").double())
    gradients = (("grad_feat", features), ("grad_location", location), ("grad_weights", weights))
    for name, value in (("output", output), *((name, tensor.grad) for name, tensor in gradients)):
        data.check(f"{case}_{name}", value, atol=1e-9, rtol=2e-7)
