"""The preprocessing benchmark measures the ways that it names, on what it was given."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("cv_bridge")

from sparse4d_core.config import preset  # noqa: E402
from sparse4d_core.preprocess import decoding_reduction  # noqa: E402
from sparse4d_ros.benchmark import preprocessing  # noqa: E402


def test_every_way_is_measured_and_written(tmp_path, capsys, monkeypatch):
    taken = []
    original = preprocessing.preprocess

    def noting(frame, config, resize):
        taken.append((frame.images[0].shape[1], resize, len(frame.images)))
        return original(frame, config, resize)

    monkeypatch.setattr(preprocessing, "preprocess", noting)
    monkeypatch.setattr(preprocessing, "keep_freed_memory", lambda: True)  # settings of the whole process
    out = tmp_path / "bench" / "preprocessing.json"
    arguments = ["--model", "demo", "--size", "704", "396", "--cameras", "2", "--repeats", "1", "--out", str(out)]
    assert preprocessing.main(arguments) == 0
    assert taken == 2 * [(704, "pillow", 2), (704, "torch", 2), (352, "pillow", 2), (352, "torch", 2)]
    written = json.loads(out.read_text())
    assert written["reduction"] == decoding_reduction(preset("demo").image, (704, 396)) == 2
    assert written["images"].startswith("2 JPEG, 704x396")
    printed = capsys.readouterr().out
    assert len(written["milliseconds"]) == 11
    assert all(figures["median"] > 0 and name in printed for name, figures in written["milliseconds"].items())


def test_the_made_up_picture_is_as_large_as_those_of_cameras():
    data = preprocessing.picture(1600, 900)
    assert 120_000 < len(data) < 180_000
    assert cv2.imdecode(np.frombuffer(data, np.uint8), 1).shape == (900, 1600, 3)


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_bad_input_is_refused(tmp_path, capsys, content):
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    assert preprocessing.main(["--image", str(path)]) == 2
    assert "image: compressed image" in capsys.readouterr().err
    assert preprocessing.main(["--image", str(tmp_path / "none.jpg")]) == 2
    with pytest.raises(SystemExit) as caught:
        preprocessing.main(["--repeats", "0"])
    assert caught.value.code == 2
