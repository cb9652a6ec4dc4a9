"""Labels as lines: all of them in one message, on any graphics driver, in any colour.

viser's own labels are one node each, black on white, and stay empty where the browser renders in software.
"""

from __future__ import annotations

from functools import cache

import numpy as np

_CAP, _ADVANCE = 6.0, 5.8  # height of a letter and distance to the next one, in the units below
# Polylines of points `xy`, x from 0 to 4, y from 0 (base line) to 6. Small letters look like capitals.
_STROKES = {
    "A": "00 03 26 43 40, 02 42", "B": "00 06 36 45 44 33 03, 33 42 41 30 00", "C": "45 36 16 05 01 10 30 41",
    "D": "00 06 26 44 42 20 00", "E": "46 06 00 40, 03 33", "F": "46 06 00, 03 33",
    "G": "45 36 16 05 01 10 30 41 43 23", "H": "00 06, 40 46, 03 43", "I": "10 30, 16 36, 20 26", "J": "46 41 30 10 01",
    "K": "00 06, 46 03 40", "L": "06 00 40", "M": "00 06 23 46 40", "N": "00 06 40 46",
    "O": "10 01 05 16 36 45 41 30 10", "P": "00 06 36 45 44 33 03", "Q": "10 01 05 16 36 45 41 30 10, 22 40",
    "R": "00 06 36 45 44 33 03, 23 40", "S": "45 36 16 05 04 13 33 42 41 30 10 01", "T": "06 46, 26 20",
    "U": "06 01 10 30 41 46", "V": "06 20 46", "W": "06 10 23 30 46", "X": "00 46, 06 40", "Y": "06 23 46, 23 20",
    "Z": "06 46 00 40", "0": "10 01 05 16 36 45 41 30 10", "1": "15 26 20, 10 30", "2": "05 16 36 45 44 00 40",
    "3": "05 16 36 45 44 33 23, 33 42 41 30 10 01", "4": "30 36 02 42", "5": "46 06 04 34 43 41 30 10 01",
    "6": "45 36 16 05 01 10 30 41 42 33 03", "7": "06 46 10", "8": "13 04 05 16 36 45 44 33 13 02 01 10 30 41 42 33",
    "9": "43 13 04 05 16 36 45 41 30 10 01", "#": "10 16, 30 36, 02 42, 04 44", ".": "20 21", "_": "00 40",
    "-": "13 33", "/": "00 46", ":": "21 22, 24 25", " ": "",
}  # fmt: skip
_UNKNOWN = "00 06 46 40 00"  # an empty box


@cache
def text_lines(text: str) -> np.ndarray:
    """Lines [N, 2, 2] of a text one unit high, its middle at x = 0, its base line at y = 0. Do not change them."""
    lines = [np.zeros((0, 2, 2))]
    for column, letter in enumerate(text.upper()):
        for stroke in filter(None, _STROKES.get(letter, _UNKNOWN).split(", ")):
            points = np.array([(float(x) + column * _ADVANCE, float(y)) for x, y in stroke.split(" ")])
            lines.append(np.stack([points[:-1], points[1:]], axis=1))
    middle = ((len(text) - 1) * _ADVANCE + 4.0) / 2
    return (np.concatenate(lines) - (middle, 0.0)) / _CAP


def lines_in_space(
    texts: tuple[str, ...], places: np.ndarray, T_frame_from_camera: np.ndarray, metres_per_depth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lines [N, 2, 3] of texts that face a camera, and the text [N] that each belongs to.

    Args:
        texts: K of them.
        places: [K, 3] where the middle of each base line is, m.
        T_frame_from_camera: [4, 4] pose of the camera (x right, y down, z forward) in the frame of the places.
        metres_per_depth: height of the letters for each metre of distance along the optical axis.
    """
    right, up, forward = T_frame_from_camera[:3, 0], -T_frame_from_camera[:3, 1], T_frame_from_camera[:3, 2]
    lines, owners = [np.zeros((0, 2, 3))], [np.zeros(0, np.int64)]
    for i, (text, place) in enumerate(zip(texts, places, strict=True)):
        depth = float((place - T_frame_from_camera[:3, 3]) @ forward)
        if depth > 0:
            flat = text_lines(text) * (depth * metres_per_depth)
            lines.append(place + flat[..., :1] * right + flat[..., 1:] * up)
            owners.append(np.full(len(flat), i))
    return np.concatenate(lines), np.concatenate(owners)
