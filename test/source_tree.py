"""The project's source files and what they import, for the tests of boundaries and structure."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOPS = ("sparse4d_core", "sparse4d_ros", "cuda_ops")


def files(top: str, root: pathlib.Path = ROOT) -> list[pathlib.Path]:
    return sorted((root / top).rglob("*.py"))


def module_name(path: pathlib.Path, root: pathlib.Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def import_statements(path: pathlib.Path, root: pathlib.Path = ROOT) -> Iterator[tuple[str, list[str]]]:
    """Absolute module and the names taken from it ([] for `import module`), wherever in the file the import stands."""
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])]), [alias.name for alias in node.names]


def imports(path: pathlib.Path, root: pathlib.Path = ROOT) -> set[str]:
    """Absolute dotted names of what a file imports; `from a import b` gives `a` and `a.b`."""
    return {
        name
        for module, names in import_statements(path, root)
        for name in (module, *(f"{module}.{inner}" for inner in names))
    }
