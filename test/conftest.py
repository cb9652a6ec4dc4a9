"""Options shared by all tests."""

from __future__ import annotations

import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        type=pathlib.Path,
        default=ROOT.parent / "shared" / "golden",
        help="folder with the recorded inputs and outputs of the reference implementation (default: ../shared/golden)",
    )


@pytest.fixture(scope="session")
def golden(request) -> pathlib.Path:
    """The folder of golden data; tests skip the files it does not hold."""
    return request.config.getoption("--golden").resolve()
