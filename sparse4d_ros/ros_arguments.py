"""Command lines that carry `--ros-args` beside their own options: read, and written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from rclpy.utilities import remove_ros_args


def split_ros_arguments(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """All words for rclpy.init, and those among them that are the program's own.

    Args:
        arguments: without the program's name; None: of this process.

    Raises:
        SystemExit: status 2, with a sentence, for ROS arguments that cannot be read: unknown ones, or a parameter file
            that is missing.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return words, remove_ros_args(words)
    except RuntimeError as error:  # base of rclpy's errors; its text ends with places in its sources
        reason = str(error).split(", at /")[0]  # of unknown arguments the list of them, and nothing else
        print(f"error: these ROS arguments cannot be read: {reason}", file=sys.stderr)
        raise SystemExit(2) from None


class Yaml(str):
    """A parameter's value as YAML has it, such as somebody wrote it on a command line."""


def parameter_words(values: Mapping[str, object]) -> list[str]:
    """`-p name:=value` of each, to stand behind `--ros-args`; truth and texts as YAML writes them, which rcl reads."""
    return [word for name, value in values.items() for word in ("-p", f"{name}:={_as_yaml(value)}")]


def _as_yaml(value: object) -> str:
    if isinstance(value, Yaml):
        return str(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | os.PathLike):  # in quotes: a text may read like a number, or have ` #` or `: ` in it
        return json.dumps(str(value), ensure_ascii=False)
    return str(value)
