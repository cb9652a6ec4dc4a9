"""Options shared by all tests."""

from __future__ import annotations

import gc
import pathlib

import pytest
import torch
from golden_data import ERRORS

from cuda_ops.measurement import hardware

ROOT = pathlib.Path(__file__).resolve().parents[1]
GOLDEN_FOLDERS = (ROOT.parent / "shared" / "golden", ROOT / "test" / "data" / "golden")  # all; what the repository has


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        type=pathlib.Path,
        default=next((folder for folder in GOLDEN_FOLDERS if folder.is_dir()), GOLDEN_FOLDERS[-1]),
        help="folder with the recorded inputs and outputs of the reference implementation "
        "(default: ../shared/golden, or the part of it in test/data/golden)",
    )
    parser.addoption(
        "--real-sample",
        type=pathlib.Path,
        action="append",
        help="folder with a real nuScenes keyframe, images and tables; may be given several times "
        "(default: ../shared/real_sample and ../shared/real_sample_2)",
    )
    parser.addoption("--parity-report", type=pathlib.Path, help="write the largest errors against golden data to FILE")


def pytest_configure(config):
    if config.getoption("--parity-report") is not None and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError("--parity-report: errors are collected in one process; add -n 0 (make: PROCESSES=0)")


def pytest_collection_modifyitems(items):
    """Files with slow tests first: with several processes, one that came last would keep a single one busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish(session):
    """What is there by now stays: the collector need not go through the tests and their modules again and again.

    And not after every 700 objects: where graphs are traced, it took a tenth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


@pytest.fixture(scope="session")
def golden(request) -> pathlib.Path:
    """The folder of golden data; tests skip the files it does not hold."""
    return request.config.getoption("--golden").resolve()


@pytest.fixture(autouse=True, scope="session")
def empty_cache(tmp_path_factory):
    """Weights that the user fetched do not take part in the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread():
    """A fixed order of summation, and no waiting for cores that others use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PARITY_HEADER = """# Parity with the reference implementation

Every array recorded from the reference implementation against ours, on the CPU in float32. Of each file: how many
arrays were compared, and the one that came closest to its tolerance. Exact comparisons (labels, ids, masks, names)
count the entries that differ. Made by `make test PROCESSES=0 PYTEST_ARGS=--parity-report=docs/parity.md`; the
tolerances are those that the recordings state, with their sources in the tests. One is wider: gradients of locations in
`deformable_aggregation` reach 800, where float32 numbers are 6e-5 apart; there a few roundings at that magnitude are
allowed, and the definition is compared in float64 as well.

Roundings differ between processors. Where one turns the sign of an L1 distance or the slope of a ReLU, a gradient
jumps: arrays of `losses_*` that are off for that reason, two of a file at most, are compared with the same step in
float64 (`test/golden/test_golden_losses.py`). The table is of this processor: {processor}.

Exact, and not in the table: names, order, shapes, types and trainability of every entry of `state_dict_*.json`
(`test/core/checkpoint/test_checkpoint.py`, `test/core/network/test_backbones.py`), and every value of `configs.json`
(`test/core/test_models.py`, `test/core/training/test_schedule.py`).

| golden file | arrays compared | closest to its tolerance | error | allowed |
|---|---|---|---|---|
"""


def pytest_sessionfinish(session):
    """`--parity-report FILE`: the error against every golden file, as a Markdown table (docs/parity.md)."""
    report = session.config.getoption("--parity-report")
    if report is None or not ERRORS:
        return
    files: dict[str, list[tuple[float, str, float, float]]] = {}
    for (file, key), (error, allowed) in ERRORS.items():
        files.setdefault(file, []).append((error / allowed if allowed else error, key, error, allowed))
    rows = []
    for file, compared in sorted(files.items()):
        _, key, error, allowed = max(compared)
        rows.append(f"| {file} | {len(compared)} | `{key}` | {error:.2g} | {allowed:.2g} |")
    header = PARITY_HEADER.format(processor=hardware("cpu"))
    (session.config.rootpath / report).write_text(header + "\n".join(rows) + "\n")
