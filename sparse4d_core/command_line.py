"""How every command ends: 0, 2 for wrong usage or input that cannot be used, 1 for a failure while running.

def main(arguments: Sequence[str] | None = None) -> int:
    options = parser.parse_args(arguments)       # argparse itself ends the process with 2
    try:
        ...
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    return 0
"""

from __future__ import annotations

import sys

OK, FAILED, BAD_INPUT = 0, 1, 2

_WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def refuse(program: str, error: Exception) -> int:
    """Prints what went wrong in a sentence and returns the exit status.

    Args:
        error: a ValueError or a wrong path is bad input; anything else, such as a full disk, is a failure.
    """
    print(f"{program}: {error}", file=sys.stderr)
    return BAD_INPUT if isinstance(error, (ValueError, *_WRONG_PATH)) else FAILED
