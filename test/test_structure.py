"""The shape of the project: no circle among modules, narrow folders, one name once, a short way to the network."""

from __future__ import annotations

import ast
import graphlib
import inspect
import pathlib
from collections import Counter

import numpy as np
import pytest
from source_tree import ROOT, TOPS, files, import_statements, module_name

from sparse4d_core.config import preset
from sparse4d_core.inference.pipeline import Pipeline
from sparse4d_core.network.sparse4d import Sparse4D
from sparse4d_core.types import Frame

MAX_WIDTH = 15  # modules of a folder, __init__ aside
MAX_HOPS = 4  # calls

# The calls of the network's thread, from a prepared set to the network. Threads before it store what comes (callbacks)
# and prepare it (`Worker._prepare`).
ROS_WAY = ("Worker._run_network", "SetProcessor.run", "Pipeline.run")
CORE_WAY = ("Pipeline.run", "Sparse4D.decode_usable", "RecurrentDecoder.forward")


# --- Imports ----------------------------------------------------------------------------------------------------------


def import_graph(root: pathlib.Path = ROOT, tops: tuple[str, ...] = TOPS) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere in its file; `from a import b` is the module a.b if there is
    one, else a."""
    paths = {module_name(path, root): path for top in tops for path in files(top, root)}
    graph = {}
    for name, path in paths.items():
        found = set()
        for module, taken in import_statements(path, root):
            inner = {f"{module}.{item}" for item in taken} & paths.keys()
            found |= inner if taken and len(inner) == len(set(taken)) else inner | {module}
        graph[name] = found & paths.keys() - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; [] where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_through_others():
    assert circle(import_graph()) == []


@pytest.mark.parametrize(
    "hidden",
    [
        "def later():\n    from . import a\n",
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .a import A\n",
        "import top.a\n",
        "from top import a\n",
    ],
    ids=["deferred", "for types", "absolute", "from the package"],
)
def test_a_circle_is_found_however_it_is_hidden(tmp_path, hidden):
    folder = tmp_path / "top"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .a import A\n")
    (folder / "a.py").write_text("from .b import B\n")
    (folder / "b.py").write_text("import os\n")
    assert import_graph(tmp_path, ("top",)) == {"top": {"top.a"}, "top.a": {"top.b"}, "top.b": set()}
    assert circle(import_graph(tmp_path, ("top",))) == []
    (folder / "b.py").write_text(hidden)
    assert set(circle(import_graph(tmp_path, ("top",)))) == {"top.a", "top.b"}


# --- Folders and names ------------------------------------------------------------------------------------------------


def widths(root: pathlib.Path, tops: tuple[str, ...]) -> dict[str, int]:
    """Folder -> modules in it."""
    modules = (path for top in tops for path in files(top, root) if path.name != "__init__.py")
    return dict(Counter(str(path.parent.relative_to(root)) for path in modules))


def test_no_folder_is_wide():
    assert {folder: width for folder, width in widths(ROOT, (*TOPS, "test")).items() if width > MAX_WIDTH} == {}


def names_given_twice(root: pathlib.Path, tops: tuple[str, ...]) -> dict[str, list[str]]:
    """Base name -> the modules that share it."""
    by_name: dict[str, list[str]] = {}
    for path in (path for top in tops for path in files(top, root)):
        by_name.setdefault(path.stem, []).append(str(path.relative_to(root)))
    return {name: paths for name, paths in by_name.items() if len(paths) > 1 and not name.startswith("__")}


def test_no_two_modules_have_one_name():
    assert names_given_twice(ROOT, TOPS) == {}


def test_wide_folders_and_shared_names_are_seen(tmp_path):
    for name in ("top/inner/__init__", "top/inner/a", "top/inner/b", "top/__init__", "top/a"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert widths(tmp_path, ("top",)) == {"top/inner": 2, "top": 1}
    assert names_given_twice(tmp_path, ("top",)) == {"a": ["top/a.py", "top/inner/a.py"]}


# --- The way to the network -------------------------------------------------------------------------------------------


def methods(top: str) -> dict[str, ast.FunctionDef]:
    """`Class.method` -> its definition."""
    return {
        f"{outer.name}.{inner.name}": inner
        for path in files(top)
        for outer in ast.walk(ast.parse(path.read_text()))
        if isinstance(outer, ast.ClassDef)
        for inner in outer.body
        if isinstance(inner, ast.FunctionDef)
    }


def calls(function: ast.FunctionDef) -> set[str]:
    """Names of the methods that a function calls."""
    return {
        node.func.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


def callers(frame) -> list[str]:
    """`Class.method` of the project's functions that are at work, outermost first."""
    names = []
    while frame is not None:
        inside = any(pathlib.Path(frame.f_code.co_filename).is_relative_to(ROOT / top) for top in TOPS)
        if inside and "self" in frame.f_locals:
            names.append(f"{type(frame.f_locals['self']).__name__}.{frame.f_code.co_name}")
        frame = frame.f_back
    return names[::-1]


def test_a_set_is_four_calls_from_the_network():
    assert len({*ROS_WAY, *CORE_WAY}) - 1 <= MAX_HOPS


def test_the_node_goes_this_way():
    """Read off the source: the node needs ROS to run. What comes before are other threads."""
    known = methods("sparse4d_ros")
    for caller, callee in zip(ROS_WAY, ROS_WAY[1:], strict=False):
        assert callee.rpartition(".")[2] in calls(known[caller]), f"{caller} does not call {callee}"
    assert {"take_next", "_prepare"} <= calls(known["Worker._prepare_sets"])
    assert {"prepare", "put"} <= calls(known["Worker._prepare"]) and "take" in calls(known["Worker._run_network"])


def test_the_pipeline_goes_this_way():
    """Seen from inside the network while a frame runs."""
    pipeline = Pipeline(Sparse4D(preset("demo")), trained=False)
    width, height = pipeline.config.image.original_wh
    intrinsics = np.array([[[400.0, 0, width / 2], [0, 400, height / 2], [0, 0, 1]]])
    T_cam_from_model = np.array([[[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]])
    frame = Frame((np.zeros((height, width, 3), np.uint8),), intrinsics, T_cam_from_model, np.eye(4), 10**18)
    seen: list[list[str]] = []
    decoder = pipeline.model.decoder
    decoder.register_forward_pre_hook(lambda *_: seen.append(callers(inspect.currentframe())))
    pipeline.run(pipeline.prepare(frame))
    assert seen == [[*CORE_WAY[:-1]]] and f"{type(decoder).__name__}.forward" == CORE_WAY[-1]


# --- What must not be called ------------------------------------------------------------------------------------------


def test_nothing_beside_a_vehicle_inverts_by_blas():
    """One call of np.linalg.inv keeps a thread of OpenBLAS busy for 10 to 20 ms afterwards: at thirty images a second
    it took the live view half a processor. Poses have `sparse4d_core.boxes.inverse`; checks and examples may."""
    may = (
        "sparse4d_core.export.onnxruntime_example",
        "sparse4d_ros.check_rig.ground_grid",
        "sparse4d_ros.check_rig.motion",
    )
    calls = [
        module_name(path)
        for top in TOPS
        for path in files(top)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "inv" and ast.unparse(node).endswith("linalg.inv")
    ]
    assert set(calls) == set(may)
