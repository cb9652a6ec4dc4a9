"""docs/causes.md has every cause that the code has, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

pytest.importorskip("rclpy")
from sparse4d_ros.online.statistics import kind_of_reset
from sparse4d_ros.perception import set_processor, transforms
from sparse4d_ros.perception.clock_watch import EventKind
from sparse4d_ros.perception.synced_set import MissingReason
from sparse4d_ros.perception.synchronizer import CAUSES

ROOT = Path(__file__).resolve().parents[2]
ROS, CORE = ROOT / "sparse4d_ros", ROOT / "sparse4d_core"
SENTENCES = {  # where reasons of a reset are put together
    ROS / "perception" / "set_processor.py": "_apply_resets",
    CORE / "inference" / "pipeline.py": "_begin",
}
CLASSES = {name: kind for name, kind in vars(transforms).items() if isinstance(kind, type)}
TRANSFORM_ERRORS = {name for name, kind in CLASSES.items() if issubclass(kind, transforms.TransformError)}


def calls(folder: Path, *names: str) -> Iterator[ast.Call]:
    """Calls of functions, methods or classes of these names."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (getattr(node.func, "id", "") or getattr(node.func, "attr", "")) in names:
                yield node


def words(expression: ast.AST) -> set[str]:
    """Constants of one word in an expression: a cause may depend on a condition."""
    found = {node.value for node in ast.walk(expression) if isinstance(node, ast.Constant)}
    return {word for word in found if isinstance(word, str) and re.fullmatch(r"[a-z_]+", word)}


def first_words(folder: Path, *names: str) -> set[str]:
    """Causes that are the first argument, or one of the name `cause`."""
    found = set()
    for call in calls(folder, *names):
        arguments = call.args[:1] + [keyword.value for keyword in call.keywords if keyword.arg == "cause"]
        found |= set().union(*map(words, arguments))
    return found


def conversion_causes(folder: Path) -> set[str]:
    """Of ConversionError, and of what makes one; where a function takes the cause, also its default."""
    found = first_words(folder, "ConversionError")
    for call in calls(folder, "refusal"):
        found |= set().union(*map(words, [*call.args[4:], *(k.value for k in call.keywords if k.arg == "cause")]))
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.args.defaults:
                with_default = node.args.args[-len(node.args.defaults) :]
                pairs = zip(with_default, node.args.defaults, strict=True)
                found |= set().union(*(words(value) for name, value in pairs if name.arg == "cause"))
    return found - set(CAUSES)


def transform_causes() -> set[str]:
    """Kinds are the last argument, or were put into a variable of that name before."""
    found = set()
    for call in calls(ROS / "perception", *TRANSFORM_ERRORS):
        found |= words(call.args[-1]) if len(call.args) == 2 else set()
    for node in ast.walk(ast.parse((ROS / "perception" / "transforms.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
            if getattr(node.targets[0].elts[0], "id", "") == "kind":
                found |= {word for word in words(node.value) if "_" in word}
    return {f"tf_{kind}" for kind in found}


def has_text(node: ast.AST) -> bool:
    """Whether it is a sentence with numbers, or a variable that is set to one without."""
    part = node.values[0] if isinstance(node, ast.JoinedStr) else getattr(node, "value", None)
    return isinstance(node, (ast.JoinedStr, ast.Assign)) and isinstance(getattr(part, "value", None), str)


def reset_reasons() -> set[str]:
    """Sentences, of which numbers are left out in the counters."""
    found = set()
    for call in calls(ROS, "count_reset", "request_reset"):
        found |= {call.args[0].value} if isinstance(call.args[0], ast.Constant) else set()
    for path, name in SENTENCES.items():
        function = next(n for n in ast.walk(ast.parse(path.read_text())) if getattr(n, "name", "") == name)
        parts = [n.values[0] if isinstance(n, ast.JoinedStr) else n.value for n in ast.walk(function) if has_text(n)]
        found |= {kind_of_reset(part.value + "3.100 s") for part in parts if part.value.endswith(" ")}
        found |= {part.value for part in parts if not part.value.endswith(" ") and " " in part.value}
    return found


IN_CODE = {
    "Images that do not end in a set": lambda: set(CAUSES),
    "Cameras that a set went without": lambda: set(get_args(MissingReason)),
    "What happens to cameras and to time": lambda: set(get_args(EventKind)),
    "Sets that give no output": lambda: (
        conversion_causes(ROS / "perception")
        | conversion_causes(ROS / "online")
        | first_words(ROS, "FrameDropped", "count_drop", "_drop")
    ),
    "Messages that are refused": lambda: (
        first_words(ROS, "count_rejected") | conversion_causes(ROS / "messages") - conversion_causes(ROS / "perception")
    ),
    "Poses": transform_causes,
    "Memory that is cleared": reset_reasons,
}


def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "causes.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE))


def listed(section: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", sections()[section], re.MULTILINE)


def test_every_section_of_the_page_is_compared():
    assert sections().keys() == IN_CODE.keys()


@pytest.mark.parametrize("section", IN_CODE)
def test_the_page_has_each_cause_of_the_code_once_and_no_other(section):
    assert sorted(listed(section)) == sorted(IN_CODE[section]())


def test_the_causes_of_a_set_are_listed_in_the_code_too():
    """Statistics begin with them. Those of transforms that are refused on arrival drop no set."""
    perception, poses = ROS / "perception", sections()["Poses"]
    refused = set(re.findall(r"^\| `([^`]+)` \| refused: ", poses, re.MULTILINE))
    made = conversion_causes(perception) | first_words(perception, "FrameDropped") | transform_causes()
    assert len(refused) == 3 and set(set_processor.CAUSES) == made - refused


def test_every_cause_has_a_meaning_and_something_to_do():
    rows = [line for text in sections().values() for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) >= 50
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3 and all(cells), row
