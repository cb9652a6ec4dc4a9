"""Outcomes as a JUnit file, which the CI systems of this world show.

Format: testsuite with its counts, a testcase for each, and in it `failure` or `skipped` with a message.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..atomic_write import write_text


@dataclass(frozen=True)
class TestCase:
    __test__ = False  # pytest must not collect it

    subject: str  # what was tested: a bag, a file; the class of the case
    name: str
    kind: Literal["failure", "skipped", "error"] | None  # None: it passed
    message: str


def write_junit(path: str | Path, suite: str, cases: Sequence[TestCase]) -> None:
    """Writes the file; characters that XML has no place for become '?'."""
    counts = {kind: sum(case.kind == kind for case in cases) for kind in ("failure", "error", "skipped")}
    root = ElementTree.Element(
        "testsuite",
        name=_plain(suite),
        tests=str(len(cases)),
        failures=str(counts["failure"]),
        errors=str(counts["error"]),
        skipped=str(counts["skipped"]),
    )
    for case in cases:
        element = ElementTree.SubElement(root, "testcase", classname=_plain(case.subject), name=_plain(case.name))
        if case.kind is None:
            ElementTree.SubElement(element, "system-out").text = _plain(case.message)
        else:
            ElementTree.SubElement(element, case.kind, message=_plain(case.message))
    ElementTree.indent(root)
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n")


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() or character in "\n\t" else "?" for character in text)
