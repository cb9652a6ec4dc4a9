"""The boundaries of docs/architecture.md, read off the imports of every file."""

from __future__ import annotations

import ast
import pathlib
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from source_tree import ROOT, TOPS, files, imports

ROS = re.compile(
    r"(rclpy|cv_bridge|tf2_\w+|tf_transformations|launch\w*|ament_\w+|rosbags|rosidl_\w+|rosbag2_\w+|message_filters"
    r"|diagnostic_updater|\w+_msgs|std_srvs|\w+_interfaces|sparse4d_ros)(\.|$)"
)
MESSAGES = re.compile(r"(\w+_msgs|std_srvs|builtin_interfaces)(\.|$)")
MODEL_LIBRARIES = {"torch", "numpy", "scipy", "cv2", "PIL"}


def offenders(paths: list[pathlib.Path], forbidden) -> dict[str, list[str]]:
    """Files that import a module for which `forbidden(name)` holds."""
    bad = {str(path.relative_to(ROOT)): sorted(filter(forbidden, imports(path))) for path in paths}
    return {path: names for path, names in bad.items() if names}


def imports_module(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def test_core_and_operator_know_no_ros():
    assert offenders(files("sparse4d_core") + files("cuda_ops"), ROS.match) == {}


def test_the_operator_knows_no_model():
    assert offenders(files("cuda_ops"), lambda name: imports_module(name, "sparse4d_core")) == {}


def test_only_data_and_evaluation_use_the_nuscenes_devkit():
    allowed = (ROOT / "sparse4d_core" / "data", ROOT / "sparse4d_core" / "evaluation")
    others = [path for top in TOPS for path in files(top) if not any(map(path.is_relative_to, allowed))]
    assert offenders(others, lambda name: imports_module(name, "nuscenes")) == {}


def test_the_ros_side_holds_no_tensor_mathematics():
    assert offenders(files("sparse4d_ros"), lambda name: name.split(".")[0] in ("torch", "scipy")) == {}


def test_only_transforms_calls_the_quaternion_library():
    others = [path for path in files("sparse4d_ros") if path.name != "transforms.py"]
    assert offenders(others, lambda name: name.split(".")[0] in ("tf_transformations", "transforms3d")) == {}


def test_only_messages_has_both_messages_and_core_types():
    """A change of a message, or of a core type, touches one folder."""
    both = [
        path
        for path in files("sparse4d_ros")
        if any(map(MESSAGES.match, names := imports(path)))
        and any(imports_module(name, "sparse4d_core.types") for name in names)
    ]
    assert len(both) >= 3
    assert [path for path in both if path.parent != ROOT / "sparse4d_ros" / "messages"] == []


def test_perception_has_no_messages_and_no_node():
    """Synchronizer, transforms and frames serve rclpy's messages and those of a bag reader alike."""
    offline = files("sparse4d_ros/perception")
    assert len(offline) > 5
    forbidden = re.compile(rf"{MESSAGES.pattern}|rclpy(\.|$)|sparse4d_ros\.(messages|online|node|parameters)(\.|$)")
    assert offenders(offline, forbidden.match) == {}


def test_the_offline_tools_need_no_node():
    offline = [*files("sparse4d_ros/bags"), *(ROOT / "sparse4d_ros" / f"{name}.py" for name in ("replay", "assembly"))]
    assert offenders(offline, re.compile(r"sparse4d_ros\.(online|node)(\.|$)").match) == {}


def test_only_the_page_in_the_browser_needs_viser():
    """And only where it is asked for: the command line tells how to get it."""
    assert offenders(files("sparse4d_ros/live_view/browser"), lambda name: imports_module(name, "viser"))
    others = [path for top in TOPS for path in files(top) if path.parent.name != "browser"]
    assert offenders(others, lambda name: imports_module(name, "viser")) == {}


def test_only_two_files_need_ray():
    """And only where a cluster is asked for: the others run without it."""
    needing = offenders([path for top in TOPS for path in files(top)], lambda name: imports_module(name, "ray"))
    assert {pathlib.Path(path).name for path in needing} == {"ray_workers.py", "cluster_hosts.py"}
    asked_for = {  # by whom these two are imported, inside functions
        "sparse4d_core/evaluation/tasks/cluster_option.py",
        "sparse4d_ros/benchmark/fleet.py",
    }
    modules = ("ray_workers", "cluster_hosts")
    importing = offenders(
        [path for top in TOPS for path in files(top)], lambda name: name.rpartition(".")[2] in modules
    )
    assert importing.keys() == asked_for
    for path in asked_for:
        at_the_top = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.ImportFrom)]
        assert not [node for node in at_the_top if (node.module or "").rpartition(".")[2] in modules]


def test_the_scene_of_the_live_view_knows_neither_ros_nor_the_browser():
    pure = [ROOT / "sparse4d_ros" / "live_view" / f"{name}.py" for name in ("scene", "drawing", "strip", "stroke_font")]
    forbidden = re.compile(rf"{MESSAGES.pattern}|rclpy(\.|$)|viser(\.|$)|sparse4d_ros\.(messages|online|node)(\.|$)")
    assert offenders(pure, forbidden.match) == {}


def test_only_one_file_contains_foreign_parameter_names():
    pattern = re.compile(
        r"^(img_backbone|img_neck|depth_branch|head\.(layers|instance_bank|instance_feature|anchor)"
        r"|backbone\.bottom_up|conv2_offset)\b"
    )
    knowing = {
        path.name
        for top in TOPS
        for path in files(top)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.match(node.value)
    }
    assert knowing == {"reference_names.py"}


def test_the_model_runs_with_four_libraries():
    """Imports the pipeline and builds a model where everything but them (and Pillow, for resizing) is hidden."""
    program = f"""
import importlib.abc, sys
allowed = {MODEL_LIBRARIES!r} | {{"sparse4d_core", "cuda_ops"}}
hidden = set()

class Hide(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        caller = sys._getframe(1)
        while caller.f_globals.get("__name__", "importlib").startswith(("importlib", "__main__")):
            caller = caller.f_back
            if caller is None:
                return None
        ours = caller.f_globals["__name__"].split(".")[0] in ("sparse4d_core", "cuda_ops")
        if ours and name.split(".")[0] not in allowed | set(sys.stdlib_module_names):
            raise ModuleNotFoundError(f"{{name}} is no library of the model", name=name)

sys.meta_path.insert(0, Hide())
from sparse4d_core.inference.pipeline import Pipeline
print(Pipeline.from_preset("demo").config.name)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip().endswith("demo"), result.stderr


def test_what_plays_records_and_scores_starts_without_torch():
    """torch takes two seconds of a core to import, more than a recorder needs in a minute."""
    commands = ["sparse4d_core.data.synthetic.__main__", "sparse4d_core.evaluation.evaluate"]
    commands += ["sparse4d_core.evaluation.criteria", "sparse4d_core.training.plot"]
    if find_spec("rclpy"):
        commands += [f"sparse4d_ros.{name}" for name in ("bag_player", "box_recorder")]
        commands += [f"sparse4d_ros.{name}" for name in ("nuscenes_to_rosbag", "write_submission")]
    program = f"import sys, {', '.join(commands)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("top", TOPS)
def test_no_file_is_skipped(top):
    assert len(files(top)) > 3


def test_imports_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "top" / "inner" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text("from ..types import Frame\nfrom . import near\ndef f():\n    import rclpy.node\n")
    assert imports(path, tmp_path) == {"top.types", "top.types.Frame", "top.inner", "top.inner.near", "rclpy.node"}
