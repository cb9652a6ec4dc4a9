"""A data set through the model: the same results however many processes, after interruptions, and clear refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_jobs import dying

from sparse4d_core.config import preset
from sparse4d_core.data.nuscenes.dataset import NuScenesDataset
from sparse4d_core.evaluation import run as command
from sparse4d_core.evaluation import stream_workers
from sparse4d_core.evaluation.devkit_scores import DetectionScores, Scores, TrackingScores
from sparse4d_core.evaluation.keyframe_run import frames_ahead
from sparse4d_core.evaluation.published_figures import differences, table
from sparse4d_core.evaluation.run_folder import RunFolder, RunFolderError
from sparse4d_core.evaluation.scene_streams import divide

pytestmark = pytest.mark.usefixtures("one_thread")


SCORES = Scores(
    DetectionScores(0.5, 0.4, {"mATE": 0.3}, dict.fromkeys(preset("demo").class_names, 0.4)),
    TrackingScores(0.3, 1.0, 7, 0.3, 0.5, {}),
    ("a",), 6, 0,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def no_scoring():
    """What the devkit makes of the results has its own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "evaluate", lambda *_, **__: SCORES)
        yield


def words(root, out, *more):
    return ["--model", "demo", "--dataroot", str(root), "--out", str(out), "--workers", "1", *more]


@pytest.fixture(scope="module")
def alone(three_scenes, tmp_path_factory):
    """(folder of a run in this process with a stream a scene, one with a single stream)."""
    out = tmp_path_factory.mktemp("alone")
    for name, streams in (("scenes", "0"), ("chain", "1")):
        assert command.main(words(three_scenes, out / name, "--streams", streams)) == 0
    return out / "scenes", out / "chain"


def files(folder):
    return [(folder / name).read_bytes() for name in ("results.json", "tracking.json")]


@pytest.mark.slow
def test_processes_give_the_same_bytes(three_scenes, alone, tmp_path):
    assert command.main(words(three_scenes, tmp_path / "two", "--processes", "2", "--workers", "0")) == 0
    assert files(tmp_path / "two") == files(alone[0])
    results = json.loads((tmp_path / "two" / "results.json").read_text())["results"]
    assert len(results) == 6 and all(results.values())


def test_a_stream_hands_its_memory_on(three_scenes, alone):
    """With the reference reset what is remembered of a scene matters to the next one, and to no first scene."""
    results = [json.loads(files(folder)[0])["results"] for folder in alone]
    data = NuScenesDataset(three_scenes, cache=None)
    scenes = command.in_order_of_time(data)
    tokens = [[data.frame(int(i), images=False).token for i in data.scene_frames(name)] for name in scenes]
    assert all(results[0][token] == results[1][token] for token in tokens[0])
    assert any(results[0][token] != results[1][token] for token in tokens[1])
    assert not list((alone[1] / "scenes").glob("*.pt")), "memories that nobody needs any more"


class Interrupted(BaseException):
    """As Ctrl-C is: no error of a scene."""


def interrupt_at(monkeypatch, scene):
    """From here on a run ends when it comes to this scene."""
    run_scene = stream_workers.run_scene

    def run(pipeline, data, name, *arguments):
        if name == scene:
            raise Interrupted
        return run_scene(pipeline, data, name, *arguments)

    monkeypatch.setattr(stream_workers, "run_scene", run)


def test_a_chain_goes_on_where_it_was_interrupted(three_scenes, alone, tmp_path, monkeypatch):
    scenes = command.in_order_of_time(NuScenesDataset(three_scenes, cache=None))
    arguments = words(three_scenes, tmp_path / "run", "--streams", "1")
    with monkeypatch.context() as patch:
        interrupt_at(patch, scenes[1])
        with pytest.raises(Interrupted):
            command.main(arguments)
    assert not (tmp_path / "run" / "results.json").exists()
    kept = tmp_path / "run" / "scenes" / f"{scenes[0]}.json"
    kept_at = kept.stat().st_mtime_ns
    assert command.main([*arguments, "--resume"]) == 0
    assert files(tmp_path / "run") == files(alone[1])
    assert kept.stat().st_mtime_ns == kept_at, "a scene that was done was run again"


def test_a_finished_run_is_only_assembled(three_scenes, alone, tmp_path, monkeypatch):
    folder = shutil.copytree(alone[0], tmp_path / "again")
    monkeypatch.setattr(stream_workers, "SceneRunner", None)
    assert command.main(words(three_scenes, folder, "--resume")) == 0
    assert files(folder) == files(alone[0])


def refused(capsys, arguments) -> str:
    assert command.main(arguments) == 2
    return capsys.readouterr().err


def test_runs_do_not_mix(three_scenes, alone, tmp_path, capsys):
    folder = shutil.copytree(alone[0], tmp_path / "run")
    assert "--resume" in refused(capsys, words(three_scenes, folder))
    text = refused(capsys, words(three_scenes, folder, "--resume", "--scene-reset", "clean"))
    assert "scene_reset was 'reference', is 'clean'" in text
    assert "scenes was" in refused(capsys, words(three_scenes, folder, "--resume", "--split", "two"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    assert "contains no run" in refused(capsys, words(three_scenes, tmp_path / "other"))


def test_a_run_that_was_refused_leaves_the_folder_vacant(three_scenes, tmp_path, capsys):
    out = tmp_path / "run"
    assert "cuda:99" in refused(capsys, words(three_scenes, out, "--devices", "cuda:99"))
    folder = RunFolder.begin(out, {"device": "cpu"}, resume=False)
    folder.write_scene("a", b"done")
    folder.withdraw()
    assert folder.has("a") and (out / "run.json").is_file()


def test_bad_options_are_named(three_scenes, tmp_path, capsys):
    out = tmp_path / "run"
    assert "unknown preset" in refused(capsys, ["--model", "v9", *words(three_scenes, out)[2:]])
    assert "no file" in refused(capsys, words(three_scenes, out, "--checkpoint", str(tmp_path / "none.pt")))
    assert "unknown 'winter'" in refused(capsys, words(three_scenes, out, "--split", "winter"))
    assert "expected 0 (one a scene) to 3" in refused(capsys, words(three_scenes, out, "--streams", "4"))
    assert "v3_r50" in refused(capsys, ["--model", "v3_r50", *words(three_scenes, out)[2:]])
    assert "ray: expected auto, local or HOST:PORT" in refused(capsys, words(three_scenes, out, "--ray", "nowhere"))
    assert not out.exists()
    with pytest.raises(SystemExit):
        command.main(words(three_scenes, out, "--processes", "0"))
    assert "--processes" in capsys.readouterr().err


def test_damaged_folders_are_refused(alone, tmp_path):
    folder = shutil.copytree(alone[0], tmp_path / "run")
    run = RunFolder(folder, json.loads((folder / "run.json").read_text()))
    first, second, third = run.settings["scenes"]
    (folder / "scenes" / f"{third}.json").unlink()
    with pytest.raises(RunFolderError, match=f"1 scenes are not done, the first is {third}"):
        run.assemble([first, second, third], {})
    content = json.loads((folder / "scenes" / f"{first}.json").read_text())
    (folder / "scenes" / f"{third}.json").write_text(json.dumps({**content, "scene": third}))
    before = files(folder)
    with pytest.raises(RunFolderError, match=f"is in {first} and in {third}"):
        run.assemble([first, second, third], {})
    (folder / "scenes" / f"{third}.json").write_text("{")
    with pytest.raises(RunFolderError, match="cannot be read"):
        run.assemble([first, second, third], {})
    assert files(folder) == before, "a submission was left half-written"
    with pytest.raises(RunFolderError, match="delete the scenes of this stream"):
        run.read_state(first)


def test_a_dead_process_is_named(three_scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "StreamTask", dying(stream_workers.StreamTask))
    assert command.main(words(three_scenes, tmp_path / "run", "--processes", "2")) == 1
    assert "go on with --resume" in (text := capsys.readouterr().err) and "fewer --processes" in text


def test_a_scene_that_cannot_be_run_stops_no_other(three_scenes, alone, tmp_path, capsys):
    """It is named, whoever comes after it in a stream waits, and --resume runs what is missing."""
    world = shutil.copytree(three_scenes, tmp_path / "world")
    data = NuScenesDataset(world, cache=None)
    scenes = command.in_order_of_time(data)
    image = world / data.index.files[data.scene_frames(scenes[1])[0]][0]
    kept = image.read_bytes()
    image.write_bytes(b"no picture")
    assert command.main(words(world, tmp_path / "run")) == 1
    text = capsys.readouterr().err
    assert f"1 of 3 could not be run; whole scenes are kept in {tmp_path / 'run'}: go on with --resume" in text
    assert f"{scenes[1]}: DatasetError: " in text and image.name in text
    assert [(tmp_path / "run" / "scenes" / f"{scene}.json").exists() for scene in scenes] == [True, False, True]
    assert not (tmp_path / "run" / "results.json").exists()
    image.write_bytes(kept)
    assert command.main(words(world, tmp_path / "run", "--resume")) == 0
    assert files(tmp_path / "run") == files(alone[0])


def test_threads_do_not_change_the_order(three_scenes):
    data = NuScenesDataset(three_scenes, cache=None)
    rows = list(range(len(data)))
    plain = [frame.token for frame in frames_ahead(data.frame, rows)]
    assert [frame.token for frame in frames_ahead(data.frame, rows, workers=2)] == plain == data.index.tokens.tolist()


def test_streams_are_rows_of_scenes():
    names = list("abcdefg")
    assert [stream.scenes for stream in divide(names)] == [(name,) for name in names]
    assert [len(stream.scenes) for stream in divide(names, 3)] == [2, 3, 2]
    assert sum((stream.scenes for stream in divide(names, 3)), ()) == tuple(names)
    assert not divide(names)[0].is_chain and divide(names, 1)[0].is_chain


SETTINGS = {
    "version": "v1.0-trainval", "split": "val", "trained": True, "checkpoint": "sparse4dv3_r50.pth",
    "precision": "float32", "scene_reset": "reference", "streams": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "change, scenes, size, word",
    [
        ({}, 150, (1600, 900), None),
        ({"split": "mini_val"}, 2, (1600, 900), "split mini_val"),
        ({}, 3, (1600, 900), "3 of the 150"),
        ({}, 150, (704, 396), "704x396"),
        ({"trained": False}, 150, (1600, 900), "UNTRAINED"),
        ({"checkpoint": "mine.pt"}, 150, (1600, 900), "mine.pt"),
        ({"checkpoint": None}, 150, (1600, 900), "of the exported step"),
        ({"precision": "bfloat16"}, 150, (1600, 900), "bfloat16"),
        ({"scene_reset": "clean"}, 150, (1600, 900), "clean"),
        ({"streams": 150}, 150, (1600, 900), "begins without"),
    ],
)
def test_what_differs_from_the_published_protocol(change, scenes, size, word):
    found = differences(preset("v3_r50"), {**SETTINGS, **change}, scenes, [size])
    assert found == [] if word is None else len(found) == 1 and word in found[0]


def test_what_cannot_be_scored(three_scenes):
    data = NuScenesDataset(three_scenes, cache=None)
    assert command.unscored(preset("demo"), data) == ""
    assert "robot.small" in command.unscored(replace(preset("demo"), class_names=("car", "robot.small")), data)
    for names in (np.full_like(data.index.class_names, "animal"), data.index.class_names[:0]):
        data.index = replace(data.index, class_names=names)
        assert "no annotations of classes that nuScenes scores" in command.unscored(preset("demo"), data)


def test_measured_beside_published():
    tracking = TrackingScores(0.4, 1.1, 312, 0.4, 0.5, {})
    scores = Scores(DetectionScores(0.55, 0.45, {"mATE": 0.6}, {}), tracking, (), 0, 0)
    text = table(preset("v3_r50"), scores)
    assert "0.5500     0.5637     -0.0137" in text and "312" in text
    assert "nothing is published" in table(preset("demo"), scores)
