"""Checkpoints: names against the reference, strict loading, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_data import Golden

from sparse4d_core.checkpoint.__main__ import main
from sparse4d_core.checkpoint.file import CheckpointError, config_from_dict, config_to_dict, read_checkpoint
from sparse4d_core.checkpoint.identity import identify
from sparse4d_core.checkpoint.reference_names import from_reference, to_reference
from sparse4d_core.checkpoint.weights import load_checkpoint, save_checkpoint
from sparse4d_core.config import PRESETS, preset
from sparse4d_core.network.sparse4d import Sparse4D

STATE_DICTS = (  # golden file, preset, layout
    ("state_dict_v3_r50", "v3_r50", "later"),
    ("state_dict_v2_r50", "v2_r50", "later"),
    ("state_dict_v1_r101_H1", "v1_r101_t1", "original"),
    ("state_dict_v1_r101_H4", "v1_r101_t4", "original"),
    ("state_dict_v1_r101_H1_later_layout", "v1_r101_t1", "later"),
    ("state_dict_v1_r101_H4_later_layout", "v1_r101_t4", "later"),
)


def meta_model(name: str) -> Sparse4D:
    with torch.device("meta"):
        return Sparse4D(preset(name))


def constant_state(keys: dict) -> dict[str, torch.Tensor]:
    """Tensors of the recorded shapes that take no room on disk: one number each, seen through every index."""
    return {
        name: torch.tensor(i % 7, dtype=getattr(torch, entry["dtype"])).expand(entry["shape"])
        for i, (name, entry) in enumerate(keys.items())
    }


@pytest.fixture(scope="module")
def demo() -> Sparse4D:
    torch.manual_seed(0)
    return Sparse4D(preset("demo"))


@pytest.fixture
def demo_file(demo, tmp_path) -> pathlib.Path:
    save_checkpoint(tmp_path / "demo.pt", demo, {"iteration": 7})
    return tmp_path / "demo.pt"


# --- The reference's files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "case", "layout"), [pytest.param(*entry, id=f"{entry[0]}-{entry[1]}") for entry in STATE_DICTS]
)
class TestStateDict:
    def test_golden(self, golden, file, case, layout):
        """Names, order, shapes, types and what trains, from our model to the reference's list."""
        keys = Golden(golden, file)["keys"]
        model = meta_model(case)
        ours = to_reference(model.state_dict(), model.config, layout)
        trainable = to_reference(
            {name: p.requires_grad for name, p in model.named_parameters()}
            | dict.fromkeys(dict(model.named_buffers())),
            model.config,
            layout,
        )
        assert list(ours) == list(keys)
        for name, entry in keys.items():
            assert list(ours[name].shape) == entry["shape"], name
            assert str(ours[name].dtype) == f"torch.{entry['dtype']}", name
            fixed = name.endswith("fix_scale")  # constants: parameters without gradient there, buffers here
            assert bool(entry["requires_grad"]) == (trainable[name] is True) or fixed, name
            assert not (fixed and entry["requires_grad"])

    def test_strict_loading(self, golden, tmp_path, file, case, layout):
        """A whole file loads and every tensor arrives; one entry more or less is refused."""
        state = constant_state(Golden(golden, file)["keys"])
        model, path = Sparse4D(preset(case)), tmp_path / "published.pth"
        torch.save({"meta": {"epoch": 24}, "state_dict": OrderedDict(state), "optimizer": {"state": {}}}, path)
        assert load_checkpoint(path, model).meta == {"epoch": 24}
        back = to_reference(model.state_dict(), model.config, layout)
        for name, tensor in state.items():
            if not name.endswith("anchor_handler.fix_scale"):
                assert torch.equal(back[name], tensor), name
        name = next(n for n in state if n.endswith("refine.layers.0.weight") or "layers.3." in n)
        shortened = {n: t for n, t in state.items() if n != name}
        for wrong, what in ((shortened, "1 missing"), (state | {"head.surplus": torch.zeros(1)}, "1 unknown")):
            torch.save(wrong, path)
            with pytest.raises(CheckpointError, match=what):
                load_checkpoint(path, model)


@pytest.mark.parametrize(("file", "case"), [pytest.param(*e[:2], id=f"{e[0]}-{e[1]}") for e in STATE_DICTS])
def test_identity_of_published_files(golden, file, case):
    identity = identify(constant_state(Golden(golden, file)["keys"]))
    assert identity.presets == (case,)
    assert identity.num_anchors == 900
    assert str(preset(case).backbone.depth) in identity.backbone


def test_names_survive_both_ways():
    for name in PRESETS:
        model = meta_model(name)
        for layout in ("original", "later"):
            there = to_reference(model.state_dict(), model.config, layout)
            assert list(sorted(from_reference(there, model.config))) == sorted(model.state_dict()), (name, layout)


# --- Our files --------------------------------------------------------------------------------------------------------


def test_our_file_carries_its_configuration(demo, demo_file):
    file = read_checkpoint(demo_file)
    assert file.config == demo.config
    assert file.meta == {"iteration": 7}
    other = Sparse4D(file.config)
    load_checkpoint(demo_file, other)
    for (name, a), b in zip(demo.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [p.name for p in demo_file.parent.iterdir()] == ["demo.pt"]


def test_file_of_several_gpus_or_of_a_compiled_model(demo, tmp_path):
    torch.save({"module._orig_mod." + name: t for name, t in demo.state_dict().items()}, tmp_path / "a.pt")
    load_checkpoint(tmp_path / "a.pt", Sparse4D(preset("demo")))


def test_other_image_size_is_told(demo, demo_file, caplog):
    config = replace(demo.config, image=replace(demo.config.image, input_wh=(320, 128)))
    with caplog.at_level(logging.WARNING):
        load_checkpoint(demo_file, Sparse4D(config))
    assert "(352, 128)" in caplog.text
    assert "(320, 128)" in caplog.text


@pytest.mark.parametrize("name", PRESETS)
def test_configuration_survives_json(name):
    config = preset(name)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_configuration_of_another_version():
    with pytest.raises(CheckpointError, match="ImageConfig has no field lens"):
        config_from_dict({"name": "x", "generation": 3, "image": {"input_wh": [8, 8], "lens": "fisheye"}})
    with pytest.raises(CheckpointError, match="generation"):
        config_from_dict({"name": "x", "image": {"input_wh": [8, 8]}})


# --- Wrong files ------------------------------------------------------------------------------------------------------


class Malicious:
    """Pickles as a call that writes a file."""

    def __init__(self, target: pathlib.Path):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(demo, tmp_path, zipped):
    content = {"state_dict": demo.state_dict(), "meta": Malicious(tmp_path / "ran")}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"could run code.*refused"):
        load_checkpoint(tmp_path / "a.pt", demo)
    assert not (tmp_path / "ran").exists()


def test_numpy_numbers_among_the_notes_are_fine(demo, tmp_path):
    torch.save(
        {"state_dict": demo.state_dict(), "meta": {"best": np.float64(0.5), "step": np.int64(3)}}, tmp_path / "a.pt"
    )
    assert read_checkpoint(tmp_path / "a.pt").meta == {"best": 0.5, "step": 3}


def test_numpy_numbers_where_torch_takes_no_names_beside_functions(demo, tmp_path, monkeypatch):
    """As torch 2.5 does, which reads each function's own name; and of both NumPy 1 and 2."""
    given, allow = [], torch.serialization.safe_globals

    def safe_globals(functions):
        given.extend(f"{function.__module__}.{function.__name__}" for function in functions)
        return allow(functions)

    monkeypatch.setattr(torch.serialization, "safe_globals", safe_globals)
    torch.save({"state_dict": demo.state_dict(), "meta": {"best": np.float64(0.5)}}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").meta == {"best": 0.5}
    assert {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"} <= set(given)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_half_a_file(demo, demo_file, keep):
    content = demo_file.read_bytes()
    demo_file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match=r"damaged or incomplete|not a checkpoint"):
        load_checkpoint(demo_file, demo)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"version https://git-lfs", b"\x89PNG\r\n"])
def test_something_else_altogether(demo, tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content * 10)
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_checkpoint(tmp_path / "a.pth", demo)
    with pytest.raises(FileNotFoundError, match="missing"):
        load_checkpoint(tmp_path / "missing.pth", demo)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), {"state_dict": {}}])
def test_files_without_weights(demo, tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds (no weights|a )"):
        load_checkpoint(tmp_path / "a.pth", demo)


def test_another_generation_is_named(golden, demo, tmp_path):
    state = constant_state(Golden(golden, "state_dict_v2_r50")["keys"])
    torch.save({"state_dict": state}, tmp_path / "v2.pth")
    before = {name: tensor.clone() for name, tensor in demo.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"does not fit demo.*It fits the preset v2_r50\."):
        load_checkpoint(tmp_path / "v2.pth", demo)
    assert all(torch.equal(before[name], tensor) for name, tensor in demo.state_dict().items())


def test_another_number_of_anchors_is_named(demo, tmp_path):
    small = Sparse4D(replace(demo.config, num_anchors=200))
    save_checkpoint(tmp_path / "small.pt", small)
    with pytest.raises(
        CheckpointError, match=r"\(200, 11\), expected \(256, 11\).*demo with num_anchors=200 \(not 256\)"
    ):
        load_checkpoint(tmp_path / "small.pt", demo)


def test_nearest_preset_is_named_where_none_fits(demo, tmp_path):
    state = {name: tensor for name, tensor in demo.state_dict().items() if not name.startswith("neck.fpn_convs.2.")}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"2 missing \(.*fpn_convs.*No preset fits better"):
        load_checkpoint(tmp_path / "a.pt", demo)
    with pytest.raises(CheckpointError, match="the closest is demo: 2 missing"):
        load_checkpoint(tmp_path / "a.pt", Sparse4D(preset("v3_r50")))


@pytest.mark.parametrize(
    ("holds", "wanted"), [("v3_r101", "v3_r50"), ("v2_r50", "v2_vov99"), ("v1_r101_t4", "v1_r101_t1")]
)
def test_another_size_or_backbone_is_named(tmp_path, holds, wanted):
    keys = {name: {"dtype": "float32", "shape": t.shape} for name, t in meta_model(holds).state_dict().items()}
    torch.save(constant_state(keys), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"does not fit {wanted}: .*It fits the preset {holds}\."):
        load_checkpoint(tmp_path / "a.pt", meta_model(wanted))


def test_an_extra_key_is_named_with_the_preset(demo, tmp_path):
    torch.save({**demo.state_dict(), "decoder.extra.weight": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"1 unknown \(decoder\.extra\.weight\)\. No preset fits better"):
        load_checkpoint(tmp_path / "a.pt", demo)
    with pytest.raises(CheckpointError, match=r"the closest is demo: 1 unknown \(decoder\.extra\.weight\)"):
        load_checkpoint(tmp_path / "a.pt", meta_model("v3_r50"))


# --- Command line -----------------------------------------------------------------------------------------------------


def test_info(demo_file, capsys):
    assert main(["info", str(demo_file)]) == 0
    output = capsys.readouterr().out
    for expected in (
        "fits          demo",
        "a ResNet-18",
        "anchors       256",
        "trained as    demo, 352x128",
        "iteration",
        "7",
    ):
        assert expected in output


def test_info_about_a_backbone_and_a_broken_file(demo, tmp_path, capsys):
    torch.save({"backbone." + name: t for name, t in demo.backbone.state_dict().items()}, tmp_path / "backbone.pth")
    assert main(["info", str(tmp_path / "backbone.pth")]) == 0
    assert "no detector, but a ResNet-18" in capsys.readouterr().out
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04")
    assert main(["info", str(tmp_path / "broken.pth")]) == 2
    assert "damaged or incomplete" in capsys.readouterr().err


def test_exit_status_tells_bad_input_from_failure(tmp_path, capsys, monkeypatch):
    assert main(["fetch", "v9", "--out", str(tmp_path)]) == 2
    assert "v3_r50" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "missing.pth")]) == 2
    monkeypatch.setattr("sparse4d_core.checkpoint.download.time.sleep", lambda seconds: None)
    assert main(["fetch", "v3_r50", "--out", str(tmp_path), "--mirror", "http://127.0.0.1:9"]) == 1
    assert "run the same command to go on" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python -m sparse4d_core.checkpoint fetch v3_r50" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fetch", "--help"])
    assert "sparse4dv1_r101_H4_release.pth" in capsys.readouterr().out
