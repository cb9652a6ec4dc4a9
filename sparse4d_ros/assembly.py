"""The pieces of perception, made from the node's parameters: one place for the node, the replay and the tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparse4d_core.config import preset
from sparse4d_core.ego_mask import hidden_colour
from sparse4d_core.inference.pipeline import Pipeline, refusing_device
from sparse4d_core.inference.process_settings import limit_threads

from .messages.outgoing import OtherOutput
from .parameters import NodeParameters
from .perception.camera_clock import ClockLimits
from .perception.frame_builder import FrameBuilder
from .perception.rig import Rig
from .perception.synchronizer import Synchronizer
from .perception.transforms import TransformBuffer
from .units import nanoseconds


def load_pipeline(parameters: NodeParameters, rig: Rig) -> Pipeline:
    """The model with its weights, on its device, compiled and captured where asked for.

    From here on the calling thread computes with `torch_threads`, and so must every thread that runs the model: torch
    compiles for a number of threads, and with another one the first frame waits for seconds while it compiles again.

    Raises:
        ValueError: unknown preset, a checkpoint of another model, a device that is not there, or a rig that the model
            does not take.
        FileNotFoundError: no such checkpoint.
    """
    limit_threads(parameters.torch_threads)
    with refusing_device(parameters.device):
        pipeline = Pipeline.from_preset(
            parameters.model,
            parameters.checkpoint or None,
            device=parameters.device,
            precision=parameters.precision,
            compile=parameters.compile,
            scene_reset=parameters.scene_reset,
            temporal_stride=parameters.temporal_stride,
            memories=parameters.memories,
            allow_untrained=parameters.allow_untrained,
            resize=parameters.resize,
            backend=parameters.backend,
            artefact=parameters.artefact or None,
            providers=parameters.providers,
        )
    pipeline.check_cameras(len(rig.cameras))
    pipeline.warm_up([pipeline.config.image.original_wh] * len(rig.cameras))
    return pipeline


def other_outputs(parameters: NodeParameters) -> dict[str, OtherOutput]:
    """Topics of other families of messages that are asked for.

    Raises:
        ValueError: the family's packages are not installed.
    """
    if not parameters.autoware:
        return {}
    try:
        from .messages import autoware  # Autoware's packages, which most robots do not have
    except ModuleNotFoundError as error:
        raise ValueError(
            f"autoware: true, but {error.name} is not installed; source Autoware's workspace, or set it to false"
        ) from error
    given = (parameters.position_deviation, parameters.yaw_deviation, parameters.velocity_deviation)
    return autoware.outputs(autoware.Deviations(*given) if any(given) else None)


def make_synchronizer(parameters: NodeParameters, rig: Rig, epoch: int = 0) -> Synchronizer:
    """Groups the rig's images into sets; the first of them are of the given epoch."""
    return Synchronizer(
        rig.names,
        slop_ns=nanoseconds(parameters.sync_slop),
        timeout_ns=nanoseconds(parameters.sync_timeout),
        missing=parameters.missing_camera,
        limits=ClockLimits(offset_ns=nanoseconds(parameters.clock_offset)),
        epoch=epoch,
        waiting_sets=parameters.waiting_sets,
    )


def make_frame_builder(
    parameters: NodeParameters,
    rig: Rig,
    buffer: TransformBuffer,
    tf_timeout: float = 0.0,
    to_message: Callable[[str, Any], Any] = lambda camera, item: item,
) -> FrameBuilder:
    """Makes the frames of sets.

    Args:
        parameters: of the node.
        rig: its cameras and frames.
        buffer: transforms.
        tf_timeout: seconds to wait for a pose; 0 where nobody fills the buffer meanwhile.
        to_message: what the synchronizer's items are ► the image message.
    """
    return FrameBuilder(
        rig.frames,
        buffer,
        distortion=parameters.distortion,
        tf_timeout=tf_timeout,
        decode_threads=parameters.decode_threads,
        to_message=to_message,
        max_field_of_view=parameters.fisheye_field_of_view,
        reduced_for=preset(parameters.model).image if parameters.reduced_decoding else None,
        hidden=hidden_colour(preset(parameters.model).image),
    )
