"""Weights by name: shipped, fetched, or refused with the command that gets them."""

from __future__ import annotations

import pathlib

import pytest
import torch

from sparse4d_core.checkpoint import published
from sparse4d_core.checkpoint.__main__ import main
from sparse4d_core.checkpoint.published import NoWeightsError, default_folder, find_weights
from sparse4d_core.config import preset
from sparse4d_core.inference.pipeline import Pipeline


@pytest.fixture(autouse=True)
def no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "SHIPPED", tmp_path / "shipped")


def place(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_shipped_weights_come_before_fetched_ones():
    fetched = place(default_folder() / preset("v3_r50").published.checkpoint)
    assert find_weights("v3_r50") == fetched
    shipped = place(published.SHIPPED / "v3_r50.pt")
    assert find_weights("v3_r50") == shipped


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ("v3_r50", "python -m sparse4d_core.checkpoint fetch v3_r50`"),
        ("v3_r101", "none were published for this preset: train it"),
    ],
)
def test_without_weights_a_model_is_refused_with_the_remedy(model, remedy):
    with pytest.raises(NoWeightsError, match=f"model {model}: no trained weights in .*{remedy}"):
        Pipeline.from_preset(model)


def test_random_weights_only_when_allowed(caplog):
    assert not Pipeline.from_preset("demo", allow_untrained=True).trained
    assert "UNTRAINED" in caplog.text
    with pytest.raises(NoWeightsError):
        Pipeline.from_preset("demo")


def test_a_user_without_a_home_folder(monkeypatch, tmp_path, capsys):
    """As in a container that runs under a number of its own."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pathlib.Path, "home", home)
    shipped = place(published.SHIPPED / "v3_r50.pt")
    assert find_weights("v3_r50") == shipped
    shipped.unlink()
    with pytest.raises(NoWeightsError, match="model v3_r50: no trained weights in .*shipped"):
        find_weights("v3_r50")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.pt")
    assert main(["info", str(tmp_path / "a.pt")]) == 0
    assert main(["fetch", "v3_r50"]) == 2
    assert "this user has no home folder; name a folder with --out, or set XDG_CACHE_HOME" in capsys.readouterr().err


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="v9.*v3_r50"):
        find_weights("v9")
