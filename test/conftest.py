"""Options shared by all tests."""

from __future__ import annotations

import pathlib

import pytest
from golden_data import ERRORS

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


@pytest.fixture(scope="session")
def golden(request) -> pathlib.Path:
    """The folder of golden data; tests skip the files it does not hold."""
    return request.config.getoption("--golden").resolve()


def pytest_sessionfinish(session):
    """`--parity-report FILE`: the largest error against every golden file, as a Markdown table (docs/parity.md)."""
    report = session.config.getoption("--parity-report")
    if report is None or not ERRORS:
        return
    rows = ["| golden file | array | largest error | tolerance |", "|---|---|---|---|"]
    worst: dict[str, tuple[float, str, float]] = {}
    for (file, key), (error, tolerance) in ERRORS.items():
        if file not in worst or error > worst[file][0]:
            worst[file] = (error, key, tolerance)
    rows += [
        f"| {file} | `{key}` | {error:.2g} | {tolerance:g} |" for file, (error, key, tolerance) in sorted(worst.items())
    ]
    report.write_text("\n".join(rows) + "\n")
