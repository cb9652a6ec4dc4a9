"""Command lines that carry `--ros-args` beside their own options: read, and written."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rclpy.utilities import remove_ros_args


def split_ros_arguments(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """All words for rclpy.init, and those among them that are the program's own.

    Args:
        arguments: without the program's name; None: of this process.

    Raises:
        SystemExit: status 2, with a sentence, for ROS arguments that cannot be read, such as a missing parameter file.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return words, remove_ros_args(words)
    except RuntimeError as error:  # base of rclpy's errors; its text ends with places in its sources
        print(f"error: {str(error).split(', at /')[0]}", file=sys.stderr)
        raise SystemExit(2) from None


def parameter_words(values: Mapping[str, object]) -> list[str]:
    """`-p name:=value` of each, to stand behind `--ros-args`; as YAML has it, truth is `true` or `false`."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return [word for name, text in texts.items() for word in ("-p", f"{name}:={text}")]
