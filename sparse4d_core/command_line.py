"""How every command ends: 0; 2 for wrong usage or bad input; 1 for a failure while running; 130 for Ctrl-C.

def main(arguments: Sequence[str] | None = None) -> int:
    options = parser.parse_args(arguments)       # argparse itself ends the process with 2
    try:
        ...
    except (ValueError, OSError) as error:
        return refuse(parser.prog, error)
    except KeyboardInterrupt:
        return interrupted("what is done is kept")   # or what became of it
    return OK
"""

from __future__ import annotations

import signal
import sys

OK, FAILED, BAD_INPUT = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT  # as shells say it

_WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def refuse(program: str, error: Exception) -> int:
    """Prints what went wrong in a sentence and returns the exit status.

    Args:
        error: a ValueError or a wrong path is bad input; anything else, such as a full disk, is a failure.
    """
    print(f"{program}: {error}", file=sys.stderr)
    return BAD_INPUT if isinstance(error, (ValueError, *_WRONG_PATH)) else FAILED


def interrupted(rest: str = "") -> int:
    """Prints what became of the work, `rest`, and returns the exit status."""
    print(f"interrupted: {rest}" if rest else "interrupted", file=sys.stderr)
    return INTERRUPTED
