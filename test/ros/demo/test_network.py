"""What the demo gives to its programs: the input, and the network, the same to node and replay."""

from __future__ import annotations

import json

import pytest

from sparse4d_ros.demo.__main__ import (
    DemoOptions,
    node_arguments,
    parse_arguments,
    prepare_input,
    prepare_network,
    replay_sets,
)
from sparse4d_ros.replay import parameters_of
from sparse4d_ros.replay import parse_arguments as parse_replay


class Programs:
    """Takes the place of Processes: writes down the arguments of what is run."""

    def __init__(self):
        self.arguments: list[list[str]] = []

    def run(self, name, program, *arguments, show=False):
        self.arguments.append([str(word) for word in arguments])


def test_on_a_gpu_node_and_replay_run_the_captured_step(tmp_path):
    programs = Programs()
    options = parse_arguments(["--out", str(tmp_path), "--device", "cuda:1"])
    network = prepare_network(options, programs)
    assert programs.arguments == []  # nothing is exported
    node = node_arguments(options, network)
    for parameter in ('device:="cuda:1"', 'precision:="float16"', "compile:=true"):
        assert node[node.index(parameter) - 1] == "-p"
    replay_sets(options, tmp_path / "bag", network, programs)
    parameters = parameters_of(parse_replay(programs.arguments[0]))
    assert (parameters.device, parameters.precision, parameters.compile) == ("cuda:1", "float16", True)


def test_random_weights_are_allowed_to_both(tmp_path):
    programs, options = Programs(), DemoOptions(tmp_path, model="v3_r50", allow_untrained=True)
    assert "allow_untrained:=true" in node_arguments(options, prepare_network(options, programs))
    replay_sets(options, tmp_path / "bag", {}, programs)
    assert parameters_of(parse_replay(programs.arguments[0])).allow_untrained


@pytest.mark.parametrize("rest", ["", '{"scenes": 2, "se'])
def test_settings_that_were_cut_off_make_the_input_anew(tmp_path, rest):
    """As a disk that was full has left them."""
    programs, options = Programs(), DemoOptions(tmp_path)
    (tmp_path / "bag").mkdir()
    (tmp_path / "input.json").write_text(rest)
    prepare_input(options, programs)
    assert len(programs.arguments) == 2, "rendered and converted"
    assert json.loads((tmp_path / "input.json").read_text())["seed"] == options.seed
    (tmp_path / "bag").mkdir()  # which the conversion leaves
    prepare_input(options, programs)
    assert len(programs.arguments) == 2, "what is there serves again"


def test_a_checkpoint_that_is_not_there_is_refused_before_anything_is_made(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(["--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "typo.pt")])
    assert end.value.code == 2
    assert f"--checkpoint: expected a file of weights, got {tmp_path / 'typo.pt'}" in capsys.readouterr().err
