"""examples/cpp, built with CMake and run on an exported package: the boxes of Python, without it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_steps import SMALL, exported

from cuda_ops.library import build_roots, find_library
from sparse4d_core.export.drive import drive
from sparse4d_core.export.frames import main, write_network_frames
from sparse4d_core.export.manifest import NAME, read_manifest, write_manifest
from sparse4d_core.inference.pipeline import Pipeline

# Whoever comes first compiles the package and the program; on a busy machine that takes minutes.
pytestmark = [pytest.mark.usefixtures("small_preset"), pytest.mark.timeout(1800)]
SOURCES = Path(__file__).resolve().parents[3] / "examples" / "cpp"
SHOWN = 0.3  # score, as in detect.cpp
SECOND = 10**9


@pytest.fixture(scope="module")
def program() -> Path:
    """Built once for these sources and this torch."""
    lacking = [name for name in ("cmake", "ninja", "c++") if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"not on PATH, so that the example cannot be built: {', '.join(lacking)}")
    content = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    key = hashlib.sha256(content + torch.__version__.encode()).hexdigest()[:12]
    build = build_roots()[0] / f"cpp_example-{key}"
    build.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"CXX": "c++"}
    with open(build / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (build / "detect").is_file():
            libtorch = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
            run("cmake", "-S", str(SOURCES), "-B", str(build), "-G", "Ninja", libtorch, env=environment)
            run("cmake", "--build", str(build), env=environment)
    return build / "detect"


def run(*command: str, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    if find_library() is None:
        pytest.skip("no kernels are built: python -m cuda_ops.build")
    return exported(tmp_path_factory, "aoti")


def moments() -> list:
    """The drive of the proof, with its scene break, and then half a second back in time."""
    frames = drive(SMALL)
    later = frames[7].stamp_ns - SECOND // 2 - frames[0].stamp_ns
    return [*frames, *(replace(frame, stamp_ns=frame.stamp_ns + later) for frame in frames[:2])]


def test_its_boxes_are_those_of_python(program, package, tmp_path):
    """Memory from frame to frame, two new scenes, ids that go on counting."""
    frames = moments()
    assert frames[8].stamp_ns < frames[7].stamp_ns
    write_network_frames(tmp_path / "frames", frames, SMALL)
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    output = run(str(program), str(package), str(tmp_path / "frames"), str(find_library().path), env=environment)
    printed = [json.loads(line) for line in output.splitlines()]

    pipeline, state, expected = Pipeline.from_preset("demo", backend="aoti", artefact=package), None, []
    for number, frame in enumerate(frames):
        result = pipeline.step(frame, state)
        assert (result.reset is not None) == (number in (5, 8))
        state, found = result.state, result.detections
        expected += [
            (frame.stamp_ns * 1e-9, found.names()[row], int(found.ids[row]), found.scores[row], *found.boxes[row])
            for row in np.flatnonzero(found.scores > SHOWN)
        ]
    assert len(expected) > 20
    words = [(line["seconds"], line["class"], line["id"]) for line in printed]
    assert words == [row[:3] for row in expected]
    numbers = [[line["score"], *line["box"]] for line in printed]
    np.testing.assert_allclose(numbers, [row[3:] for row in expected], rtol=0, atol=1e-5)


def test_the_export_has_frames_for_it(program, package, tmp_path):
    """With own classes in any letters."""
    os.link(package / "step.aoti.pt2", tmp_path / "step.aoti.pt2")
    manifest = read_manifest(package)
    classes = ["robot.groß"] * len(manifest.config["class_names"])
    write_manifest(tmp_path, replace(manifest, config=manifest.config | {"class_names": classes}))
    output = run(str(program), str(tmp_path), str(package / "frames"), str(find_library().path), encoding="utf-8")
    printed = [json.loads(line) for line in output.splitlines()]
    assert len({line["seconds"] for line in printed}) == 3 and {line["class"] for line in printed} == {"robot.groß"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "onnx"}, "expected a package of the format aoti, got onnx"),
        ({"version": 99}, "its manifest is of another version"),
        ({"cameras": 4}, "made for 4 cameras, got 6"),
        ({"built_with": {"torch": "1.0.0"}}, "built with torch 1.0.0, this program with"),
    ],
    ids=str,
)
def test_a_package_that_does_not_fit_is_refused_with_the_reason(program, package, tmp_path, change, message):
    folder = tmp_path / "package"
    folder.mkdir()
    os.link(package / "step.aoti.pt2", folder / "step.aoti.pt2")
    (folder / NAME).write_text(json.dumps(json.loads((package / NAME).read_text()) | change))
    done = subprocess.run(
        [program, folder, package / "frames", find_library().path], capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1 and message in done.stderr, done.stderr


def test_without_the_operator_it_names_the_command(program, package):
    done = subprocess.run([program, package, package / "frames"], capture_output=True, text=True)
    assert done.returncode == 1 and "name the library that `python -m cuda_ops.build` prints" in done.stderr


def test_frames_by_the_command(tmp_path, capsys):
    assert main(["--model", "demo", "--out", str(tmp_path / "frames"), "--count", "1"]) == 0
    (entry,) = json.loads((tmp_path / "frames" / "frames.json").read_text())
    assert len(entry["images"]) == len(entry["projection"]) == 6
    head = (tmp_path / "frames" / entry["images"][0]).read_bytes()[:20].split()
    assert [int(word) for word in head[1:3]] == list(SMALL.image.input_wh) and head[0] == b"P6"
    assert main(["--model", "demo", "--out", str(tmp_path / "frames")]) == 2
    assert "exists and is no empty folder; choose another one" in capsys.readouterr().err
    assert main(["--model", "demo", "--dataroot", str(tmp_path), "--out", str(tmp_path / "more")]) == 2


@pytest.mark.parametrize("count", ["0", "-3"])
def test_less_than_a_frame_is_refused(tmp_path, capsys, count):
    with pytest.raises(SystemExit):
        main(["--model", "demo", "--out", str(tmp_path / "frames"), "--count", count])
    assert f"--count: expected 1 or more, got {count}" in capsys.readouterr().err
    assert not (tmp_path / "frames").exists()
