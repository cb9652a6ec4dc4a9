"""Serialized images ► messages: in the threads that decode them, not in the callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.serialization import deserialize_message

from ..perception.image_decoding import ConversionError
from ..perception.rig import Rig
from .subscriptions import Arrival, image_type


def image_deserializer(rig: Rig) -> Callable[[str, Arrival], Any]:
    """(camera, arrival) ► its message.

    It raises ConversionError with the cause `image_message` for bytes that are no such message: a publisher whose
    definition of the type is another, or a transport that damages what it carries.
    """
    types = {camera.name: image_type(camera.transport) for camera in rig.cameras}

    def to_message(camera: str, arrival: Arrival) -> Any:
        try:
            return deserialize_message(arrival.data, types[camera])
        except Exception as error:  # of the middleware; its errors have no common base
            kind, reason = types[camera].__name__, str(error).split(", at /")[0]
            raise ConversionError("image_message", f"camera {camera}: bytes that are no {kind}: {reason}") from error

    return to_message
