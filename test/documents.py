"""What the documents promise: shell blocks with their marks, and every command, option, path and link that they name.

Each shell block stands below a comment that says how test_documents.py runs it, or why it does not:

    <!-- runs -->
    <!-- runs with: --scenes 320 => --scenes 1; 704 396 => 176 99 -->       with these texts replaced, to be cheap
    <!-- does not run: it needs a GPU -->

The blocks of a document run in order, in one temporary folder that looks like the repository's.
"""

from __future__ import annotations

import fnmatch
import os
import pathlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/*.md", "underlay/*.md", "test/data/golden/*.md")
    for path in ROOT.glob(pattern)
)
MADE = {".git", "out", "build", "install", "log", "_build", "__pycache__"}  # folders that are not of the repository
SHELL = ("bash", "sh", "shell", "console")
MARK = re.compile(r"(?P<kind>runs|does not run)(?: with)?(?:: (?P<text>.*))?", re.DOTALL)
MODULE = re.compile(r"-m ((?:sparse4d_core|sparse4d_ros|cuda_ops)[\w.]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    line: int  # of the fence
    language: str
    mark: str | None  # the comment above it
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def kind(self) -> str | None:
        """`runs`, `does not run`; None: unmarked, or a comment that is no mark."""
        found = MARK.fullmatch(self.mark or "")
        if found is None or (found["kind"] == "does not run" and not found["text"]):
            return None
        return found["kind"]

    @property
    def lines(self) -> list[str]:
        """Command lines, continued ones joined."""
        return re.sub(r"\s*\\\n\s*", " ", self.text).splitlines()

    def commands(self) -> list[list[str]]:
        """Words of each command, with the mark's replacements made.

        Raises:
            ValueError: the mark replaces what does not stand in the block.
        """
        text = "\n".join(self.lines)
        for replacement in filter(str.strip, (MARK.fullmatch(self.mark)["text"] or "").split(";")):
            old, _, new = (part.strip() for part in replacement.partition("=>"))
            if old not in text:
                raise ValueError(f"{self.name}: the mark replaces {old!r}, which is not in the block")
            text = text.replace(old, new)
        return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def blocks(document: str, text: str) -> Iterator[Block]:
    """The fenced blocks of a document, each with the comment that stands directly above it."""
    for found in re.finditer(r"(?:<!--((?:(?!-->).)*)-->\n)?^```(.*?)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, found.start(2)) + 1
        mark = None if found[1] is None else " ".join(found[1].split())
        yield Block(document, line, found[2], mark, found[3])


def code(document: str, text: str) -> list[str]:
    """Everything set as code: command lines of blocks, and spans in the prose."""
    lines = [line for block in blocks(document, text) for line in block.lines]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def module_calls(snippets: list[str]) -> list[tuple[str, list[str]]]:
    """Our modules that are called with `-m`, and their arguments."""
    found = ((snippet, MODULE.search(snippet)) for snippet in snippets)
    return [(call[1], _words(snippet[call.end() :])) for snippet, call in found if call]


def options(words: list[str]) -> list[str]:
    """The long options among words, without values or the end of a `$(...)`; those for ROS do not count."""
    own = words[: words.index("--ros-args")] if "--ros-args" in words else words
    return [word.partition("=")[0].rstrip(")") for word in own if re.match(r"--\w", word)]


def make_targets(snippets: list[str]) -> list[str]:
    """The targets of every `make ...`."""
    calls = [_words(snippet)[1:] for snippet in snippets if snippet.startswith("make ")]
    return [word for words in calls for word in words if re.fullmatch(r"[a-z]+", word)]


def links(text: str) -> list[tuple[str, str]]:
    """Relative link targets and their anchors."""
    found = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text)
    return [(target, anchor) for target, anchor in found if "://" not in target]


def anchors(text: str) -> set[str]:
    """What headings can be linked as."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def repository_paths() -> list[str]:
    """Files and folders (with a slash at the end) of the repository, relative to it."""
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in MADE and not name.startswith(".venv")]
        inside = pathlib.Path(folder).relative_to(ROOT)
        found += [str(inside / name) for name in files] + [f"{inside / name}/" for name in folders]
    return found


def file_names(snippets: list[str], top_folders: set[str]) -> list[str]:
    """Words that name files or folders of the repository: source files, and whatever is under its top folders."""
    words = [word.rstrip(".,:;)") for snippet in snippets for word in _words(snippet)]
    source = re.compile(r"[\w./*-]*\w\.(py|h|cpp|cu|cuh|md|xml|yaml|rviz|toml|rst)")
    return [
        word
        for word in words
        if word.split("/")[0] + "/" in top_folders and "/" in word or (source.fullmatch(word) and word[0] not in "/~")
    ]


def exists(name: str, paths: list[str]) -> bool:
    """Whether a path, or the tail of one, or a pattern, is in the repository."""
    return any(
        fnmatch.fnmatch(path.rstrip("/"), pattern)
        for path in paths
        for pattern in (name.rstrip("/"), f"*/{name.rstrip('/')}")
    )


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError:  # prose: an apostrophe, say
        return text.split()
