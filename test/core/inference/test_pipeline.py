"""The pipeline: frames in, tracks out, state as a value, and every refusal with its reason."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from sparse4d_core.config import PRESETS
from sparse4d_core.inference.image_encoder import fast_precision, multiplies_integers
from sparse4d_core.inference.pipeline import NonFiniteOutputError, Pipeline
from sparse4d_core.inference.tracking import track, worth_showing
from sparse4d_core.preprocess import preprocess
from sparse4d_core.types import Detections, Frame

SECOND = 10**9


def rig_frame(seconds: float, cameras: int = 6, missing: tuple[int, ...] = (), seed: int = 0) -> Frame:
    width, height = PRESETS["demo"].image.original_wh
    rng = np.random.default_rng(seed)
    images = tuple(
        None if i in missing else rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for i in range(cameras)
    )
    turns = np.arange(cameras) * 2 * np.pi / cameras
    T = np.tile(np.eye(4), (cameras, 1, 1))
    T[:, 0, :3] = np.stack([np.sin(turns), -np.cos(turns), 0 * turns], 1)
    T[:, 1, :3] = (0, 0, -1)
    T[:, 2, :3] = np.stack([np.cos(turns), np.sin(turns), 0 * turns], 1)
    K = np.array([[500.0, 0, width / 2], [0, 500.0, height / 2], [0, 0, 1]])
    return Frame(images, np.tile(K, (cameras, 1, 1)), T, np.eye(4), int(1e18) + int(seconds * SECOND))


@pytest.fixture(scope="module")
def untrained() -> Pipeline:
    """The demo model with random weights everywhere, whatever the package ships."""
    torch.manual_seed(0)
    from sparse4d_core.network.sparse4d import Sparse4D

    model = Sparse4D(PRESETS["demo"], "clean")
    for parameter in model.decoder.layers.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Pipeline(model, trained=False)


def test_same_frames_give_the_same_result(untrained):
    def drive():
        state, results = None, []
        for i in range(3):
            results.append(untrained.step(rig_frame(0.5 * i, seed=i), state))
            state = results[-1].state
        return results

    for a, b in zip(drive(), drive(), strict=True):
        np.testing.assert_array_equal(a.detections.boxes, b.detections.boxes)
        np.testing.assert_array_equal(a.detections.ids, b.detections.ids)
        assert list(a.timings_ms) == ["preprocess", "backbone", "decoder", "decode"]


def test_frames_prepared_ahead_give_the_same_results(untrained):
    """Preparing needs nothing of the frame before; the results are those of `step`, in order."""
    frames = [rig_frame(0.5 * i, seed=i) for i in range(3)]
    prepared = [untrained.prepare(frame) for frame in frames]
    state = ahead = None
    for frame, ready in zip(frames, prepared, strict=True):
        expected, result = untrained.step(frame, state), untrained.run(ready, ahead)
        state, ahead = expected.state, result.state
        np.testing.assert_array_equal(result.detections.boxes, expected.detections.boxes)
        np.testing.assert_array_equal(result.detections.ids, expected.detections.ids)


def test_untrained_weights_are_deterministic_and_said_to_be_untrained(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr("sparse4d_core.checkpoint.published.SHIPPED", tmp_path)
    with caplog.at_level(logging.WARNING):
        a, b = (Pipeline.from_preset("demo", "", allow_untrained=True) for _ in range(2))
    assert not a.trained and "UNTRAINED" in caplog.text
    for (name, x), y in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("cameras", [1, 4, 12])
def test_any_number_of_cameras(untrained, cameras):
    result = untrained.step(rig_frame(0, cameras))
    assert len(result.detections.scores) == untrained.config.num_output


@torch.inference_mode()
def test_a_missing_camera_contributes_nothing(untrained):
    """Whatever stands in its place, to the last digit; the pixels of the others matter."""
    inputs = preprocess(rig_frame(0, missing=(2,)), untrained.config)

    def anchors_with_noise_in(camera: int) -> torch.Tensor:
        images = inputs.images.clone()
        images[:, camera] = torch.randn(images.shape[2:], generator=torch.Generator().manual_seed(1))
        return untrained.model(replace(inputs, images=images))[0].anchors[-1]

    expected = untrained.model(inputs)[0].anchors[-1]
    assert torch.equal(anchors_with_noise_in(2), expected)
    assert not torch.equal(anchors_with_noise_in(3), expected)
    assert np.isfinite(untrained.step(rig_frame(0, missing=(2,))).detections.boxes).all()


@pytest.mark.parametrize(("seconds", "reason"), [(0.5, None), (2.5, "time gap of 2.500 s"), (-0.5, "time went back")])
def test_resets_say_why(untrained, seconds, reason):
    first = untrained.step(rig_frame(0))
    result = untrained.step(rig_frame(seconds, seed=1), first.state)
    assert (result.reset is None) if reason is None else result.reset.startswith(reason)
    fresh = untrained.step(rig_frame(seconds, seed=1))
    same = np.array_equal(result.detections.boxes, fresh.detections.boxes)
    assert same == (reason is not None)


def test_between_strides_the_memory_stays_and_gives_all_ids(untrained):
    strided = Pipeline(untrained.model, temporal_stride=0.5)
    first = strided.step(rig_frame(0))
    remembered = set(first.state.instances.ids.flatten().tolist())
    between = strided.step(rig_frame(0.1, seed=1), first.state)
    assert between.state is first.state
    found = set(between.detections.ids.tolist())
    assert -1 in found, "the frame holds nothing new: the test shows nothing"
    assert found - {-1} and found - {-1} <= remembered
    assert set(between.tracks.ids.tolist()) <= remembered
    advanced = strided.step(rig_frame(0.5, seed=2), between.state)
    assert advanced.state.instances is not first.state.instances
    assert min(advanced.detections.ids) >= 0 and max(advanced.detections.ids) > max(remembered)


def test_nan_is_an_error_and_the_old_state_stays_good(untrained):
    first = untrained.step(rig_frame(0))
    broken = untrained.model.decoder.layers[-1].refine.cls_layers[-1].bias
    value = broken.detach().clone()
    try:
        broken.data.fill_(float("nan"))
        with pytest.raises(NonFiniteOutputError, match="NaN or infinite"):
            untrained.step(rig_frame(0.5), first.state)
    finally:
        broken.data.copy_(value)
    assert np.isfinite(untrained.step(rig_frame(0.5), first.state).detections.boxes).all()


@pytest.mark.parametrize(
    ("features", "device", "expected"),
    [
        ({"avx512_bf16": True, "avx2": True}, "cpu", "bfloat16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "cpu", "bfloat16"),
        ({"avx512_bf16": False, "avx2": True, "architecture": "bf16"}, "cpu", "float32"),
        ({"avx512_bf16": True}, "cuda:0", "float32"),
    ],
    ids=str,
)
def test_auto_takes_bfloat16_where_the_processor_computes_in_it(features, device, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert fast_precision(device) == expected


def test_where_torch_does_not_tell_what_the_processor_has_nothing_is_taken_for_granted(monkeypatch):
    """As torch 2.9."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision("cpu") == "float32"
    assert not multiplies_integers()


def test_what_auto_took_is_told(untrained, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    pipeline = Pipeline(untrained.model, precision="auto")
    assert pipeline.precision == "bfloat16"
    assert next(pipeline._encoder.parameters()).dtype == torch.bfloat16


def test_bad_arguments_are_named(untrained):
    with pytest.raises(ValueError, match="unknown preset 'v4'"):
        Pipeline.from_preset("v4")
    with pytest.raises(ValueError, match="precision: expected"):
        Pipeline(untrained.model, precision="int8")
    with pytest.raises(FileNotFoundError):
        Pipeline.from_preset("demo", "/nowhere/model.pt")
    with pytest.raises(ValueError, match="intrinsics"):
        untrained.step(replace(rig_frame(0), intrinsics=np.eye(3)))


def test_tracks_are_the_first_rows_above_the_class_threshold():
    """Class scores keep their own order: their count decides, the best fused rows are kept."""
    found = Detections(
        boxes=np.arange(40, dtype=np.float32).reshape(4, 10),
        scores=np.array([0.4, 0.3, 0.2, 0.1], np.float32),
        labels=np.arange(4),
        class_scores=np.array([0.9, 0.5, 0.1, 0.1], np.float32),
        ids=np.array([7, 8, 9, 10]),
    )
    tracks = track(found, 0.2)
    np.testing.assert_array_equal(tracks.ids, [7, 8])
    np.testing.assert_array_equal(tracks.boxes, found.boxes[:2])
    assert len(track(replace(found, class_scores=None), 0.25).ids) == 2
    assert len(track(replace(found, ids=None)).ids) == 0


def test_pictures_show_tracks_or_confident_detections_of_a_model_without_ids():
    boxes, labels = np.arange(30.0).reshape(3, 10), np.array([0, 1, 2])
    with_ids = Detections(boxes, np.array([0.9, 0.3, 0.1]), labels, ids=np.array([4, 5, 6]))
    tracks = track(with_ids)
    assert worth_showing(with_ids, tracks) is tracks
    without = replace(with_ids, ids=None)
    shown = worth_showing(without, track(without))
    np.testing.assert_array_equal(shown.boxes, boxes[:2])
    assert shown.ids is None and shown.labels.tolist() == [0, 1]
