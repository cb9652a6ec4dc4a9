"""Parameters of the node: one dataclass, declared as described, typed and range-checked ROS parameters.

A field's metadata is its descriptor. `config/detector.yaml` holds overrides only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from sparse4d_core.config import PRESETS
from sparse4d_core.inference.artefact_checks import BACKENDS
from sparse4d_core.inference.memories import MEMORIES


def _parameter(
    default: Any,
    description: str,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A field with its descriptor. live: may change while the node is configured."""
    metadata = {"description": description, "limits": limits, "choices": choices, "live": live}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NodeParameters:
    rig: str = _parameter("", "Path of the rig file; empty: the nuScenes rig of the package")
    model: str = _parameter("v3_r50", "Preset of the model", choices=tuple(PRESETS))
    checkpoint: str = _parameter("", "Path of the weights; empty: by name, those shipped or fetched for the preset")
    allow_untrained: bool = _parameter(
        False, "Run random weights where no trained ones are found, for tests and benchmarks; otherwise refuse"
    )
    backend: str = _parameter(
        "torch", "What runs the network: PyTorch, or an exported step (docs/deployment.md)", choices=BACKENDS
    )
    artefact: str = _parameter("", "Folder of the exported step, for the backends that run one")
    providers: str = _parameter(
        "cpu", "Of onnxruntime, in the order in which they are asked: tensorrt, cuda, openvino, cpu"
    )
    device: str = _parameter("cpu", "Where the model runs: cpu, cuda or cuda:N")
    build_operator: bool = _parameter(
        True,
        "Compile the operator in configure where it is missing and the backend calls it (torch, aoti): a minute, once; "
        "otherwise the slower PyTorch path",
    )
    precision: str = _parameter(
        "float32",
        "Of the image encoder; auto: bfloat16 on a CPU that computes in it, else float32",
        choices=("float32", "bfloat16", "float16", "auto"),
    )
    compile: bool = _parameter(
        False, "torch.compile for the image encoder, on a GPU a CUDA graph of the whole step (slow first frames)"
    )
    scene_reset: str = _parameter(
        "clean", "Memory at a scene's start: clean, or as published weights were scored", choices=("clean", "reference")
    )
    temporal_stride: float = _parameter(
        0.5,
        "Seconds that the memory which a frame takes up should be old, as in training; 0: that of the frame before",
        (0.0, 2.0),
    )
    memories: str = _parameter(
        "two",
        "Of frames that come faster than the stride: two takes up that of the last two whose age is nearest to it, "
        "interleaved one of every frame, one has a single memory that frames in between look at",
        choices=MEMORIES,
    )
    image_reliability: str = _parameter(
        "best_effort", "Quality of service of the image subscriptions", choices=("best_effort", "reliable")
    )
    camera_info_reliability: str = _parameter(
        "best_effort", "Quality of service of the CameraInfo subscriptions", choices=("best_effort", "reliable")
    )
    image_queue_depth: int = _parameter(
        5, "Images, and CameraInfo, per camera that the transport keeps for the node", (1, 100)
    )
    sync_slop: float = _parameter(
        0.06, "Seconds between the oldest and newest image of a set; above the stagger, below the period", (0.0, 1.0)
    )
    sync_timeout: float = _parameter(
        0.25, "Seconds that an image waits for its partners, by stamps; at least sync_slop", (0.0, 10.0)
    )
    waiting_sets: int = _parameter(
        1,
        "Complete sets that may wait for the model; 1: the newest wins, more bridge over moments in which it is slow",
        (1, 100),
    )
    missing_camera: str = _parameter(
        "skip", "A set without one of its cameras: skip it, or run with that camera masked", choices=("skip", "mask")
    )
    clock_offset: float = _parameter(
        0.05,
        "Seconds between a camera's stamps and those of the others, by their arrival, beyond which its images are not "
        "used; above the difference of their transports",
        (0.01, 10.0),
    )
    tf_timeout: float = _parameter(0.3, "Seconds to wait for a pose that is not there yet", (0.0, 5.0))
    tf_cache: float = _parameter(10.0, "Seconds of transforms kept", (0.1, 3600.0))
    distortion: str = _parameter(
        "refuse",
        "Raw images whose CameraInfo has D != 0: refuse or undistort; rectified takes every camera for rectified",
        choices=("refuse", "undistort", "rectified"),
    )
    fisheye_field_of_view: float = _parameter(
        110.0, "Degrees that an undistorted fisheye image shows, across width and height", (10.0, 170.0)
    )
    reduced_decoding: bool = _parameter(
        False,
        "Decode JPEGs at a half, quarter or eighth of their size where the network takes less (not as published)",
    )
    resize: str = _parameter(
        "pillow",
        "Makes images smaller on the CPU: pillow as published, or torch, faster and up to two grey levels beside it",
        choices=("pillow", "torch"),
    )
    first_id: int = _parameter(
        -1,
        "Track ids count from here; -1: from the time since boot, so that none comes again after a restart of the node",
        (-1, 2**62),
    )
    autoware: bool = _parameter(
        False, "Publish Autoware's messages too, ~/autoware/detected_objects and tracked_objects; needs its packages"
    )
    position_deviation: float = _parameter(
        0.0,
        "Metres; standard deviation of boxes, in Autoware's covariances; 0: marked as unknown",
        (0.0, 100.0),
    )
    yaw_deviation: float = _parameter(0.0, "Radians; the same", (0.0, 10.0))
    velocity_deviation: float = _parameter(0.0, "Metres a second; the same", (0.0, 100.0))
    score_threshold: float = _parameter(0.0, "Detections below it are not published", (0.0, 1.0), live=True)
    overlay_width: int = _parameter(480, "Pixels of one camera in the overlay", (64, 1920), live=True)
    overlay_quality: int = _parameter(80, "JPEG quality of the overlay", (1, 100), live=True)
    torch_threads: int = _parameter(0, "Threads of one operation on the CPU; 0: torch's own choice", (0, 256))
    decode_threads: int = _parameter(2, "Threads that decode images", (1, 32))
    look_ahead: str = _parameter(
        "auto",
        "Prepare the next set while the network has one; auto: where it leaves processors idle, as on a GPU",
        choices=("auto", "always", "never"),
    )
    worker_nice_increment: int = _parameter(
        0, "Added to the niceness of the threads that decode, run the model, publish and draw: they yield", (0, 19)
    )
    max_internal_errors: int = _parameter(
        10,
        "Internal errors in a row after which the node gives up, a good set between them ends the row; 0: never",
        (0, 1000),
    )
    after_internal_errors: str = _parameter(
        "deactivate",
        "What giving up means: deactivate, or exit (status 1) so that a launch system starts it anew",
        choices=("deactivate", "exit"),
    )
    diagnostics_period: float = _parameter(1.0, "Seconds between two diagnostics messages", (0.1, 60.0))
    autostart: bool = _parameter(False, "Configure and activate at start, where no launch system does")


_TYPES = {
    "str": Parameter.Type.STRING,
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
}


def declare(node: Node) -> None:
    """Declares every parameter; overrides of the node (file, command line) apply.

    Raises:
        rclpy.exceptions.InvalidParameterTypeException, InvalidParameterValueException: an override of another type,
            out of range, or not among the choices. The message has the reason.
    """
    for parameter in fields(NodeParameters):
        node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter))


def read(node: Node) -> NodeParameters:
    """The present values."""
    return NodeParameters(**{p.name: node.get_parameter(p.name).value for p in fields(NodeParameters)})


def check(changes: Iterable[Parameter], current: NodeParameters | None, configured: bool) -> SetParametersResult:
    """Whether the changes may be made; if not, the reason. Called for start-up values (current None) and at run time.

    Ranges and types are rclpy's to check, from the descriptors.
    """
    known = {parameter.name: parameter for parameter in fields(NodeParameters)}
    for change in changes:
        parameter = known.get(change.name)
        if parameter is None:  # use_sim_time, quality-of-service overrides: not ours
            continue
        reason = _refusal(parameter, change.value)
        if reason is None and configured and not parameter.metadata["live"]:
            if current is None or change.value != getattr(current, change.name):
                reason = f"{change.name}: takes effect in configure; deactivate and clean up the node first"
        if reason is not None:
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def check_together(parameters: NodeParameters) -> None:
    """Relations between parameters.

    Raises:
        ValueError: names both.
    """
    if parameters.sync_timeout < parameters.sync_slop:
        raise ValueError(
            f"sync_timeout: expected at least sync_slop ({parameters.sync_slop} s), got {parameters.sync_timeout} s"
        )


def add_sync_slop(parser: argparse.ArgumentParser) -> None:
    """`--sync-slop` of a tool that forms a bag's sets as the node does."""
    default = NodeParameters.sync_slop
    text = f"{NodeParameters.__dataclass_fields__['sync_slop'].metadata['description']}, as of the node (%(default)s)"
    parser.add_argument("--sync-slop", type=slop_seconds, default=default, metavar="S", help=text)


def slop_seconds(text: str) -> float:
    longest = NodeParameters.sync_timeout
    if not 0 <= (value := float(text)) <= longest:
        raise argparse.ArgumentTypeError(f"expected 0 to {longest} s (the node's sync_timeout), got {text}")
    return value


def _refusal(parameter: Field, value: Any) -> str | None:
    choices = parameter.metadata["choices"]
    if choices and value not in choices:
        return f"{parameter.name}: expected one of {', '.join(choices)}, got {value!r}"
    if parameter.name == "device" and not _is_device(value):
        return f"device: expected cpu, cuda or cuda:N, got {value!r}"
    return None


def _is_device(value: Any) -> bool:
    kind, _, number = str(value).partition(":")
    return value in ("cpu", "cuda") or (kind == "cuda" and number.isdigit())


def _descriptor(parameter: Field) -> ParameterDescriptor:
    limits, choices = parameter.metadata["limits"], parameter.metadata["choices"]
    descriptor = ParameterDescriptor(name=parameter.name, description=parameter.metadata["description"])
    descriptor.type = _TYPES[parameter.type].value
    if choices:
        descriptor.additional_constraints = f"one of {', '.join(choices)}"
    if limits and parameter.type == "int":
        descriptor.integer_range = [IntegerRange(from_value=limits[0], to_value=limits[1], step=1)]
    elif limits:
        descriptor.floating_point_range = [FloatingPointRange(from_value=limits[0], to_value=limits[1], step=0.0)]
    return descriptor
