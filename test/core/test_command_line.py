"""Exit statuses of commands."""

from __future__ import annotations

import pytest

from sparse4d_core.command_line import refuse


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("batch-size: expected at least 1, got 0"), 2),
        (FileNotFoundError(2, "No such file or directory", "anchors.npy"), 2),
        (OSError(28, "No space left on device"), 1),
        (RuntimeError("5 steps in a row were not finite"), 1),
    ],
)
def test_bad_input_and_failures_differ(capsys, error, status):
    assert refuse("python -m it", error) == status
    assert capsys.readouterr().err == f"python -m it: {error}\n"
