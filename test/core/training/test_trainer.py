"""Long runs: exact resumption, interrupted and damaged checkpoints, steps that are not finite, several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_run
import torch

from sparse4d_core.training.batches.targets import Targets
from sparse4d_core.training.run.optimizer import learning_rate, moving_average
from sparse4d_core.training.run.store import CheckpointStore, damage
from sparse4d_core.training.run.trainer import TrainingDivergedError
from sparse4d_core.training.schedule import OptimizerConfig

tiny_trainer = tiny_run.tiny_trainer


pytestmark = pytest.mark.usefixtures("one_thread")


def end_after(trainer, iterations: int) -> None:
    """Ask all processes of the run to end, loader workers too, as a scheduler does, while a step is under way."""
    take = trainer.loader.take

    def taking(count: int):
        batches = take(count)
        if trainer.iteration + 1 == iterations:
            for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
                os.kill(process, signal.SIGTERM)
        return batches

    trainer.loader.take = taking


def log_lines(out: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_ended_by_sigterm_continues_bit_for_bit(tmp_path, workers):
    straight = tiny_trainer(tmp_path / "straight", workers=workers)
    straight.run()
    first = tiny_trainer(tmp_path / "split", workers=workers)
    end_after(first, 3)
    first.run()
    assert first.iteration == 3 and not (tmp_path / "split" / "model.pt").exists()
    assert [type(optimizer).__name__ for optimizer in first.optimizers] == ["AdamW", "Muon"]
    second = tiny_trainer(tmp_path / "split", workers=workers)
    assert second.resume() and second.iteration == 3
    second.run()
    assert multiprocessing.active_children() == [], "a loader's worker would hold up the end of the process"
    assert same(second.model.state_dict(), straight.model.state_dict())
    assert same(second.average.module.state_dict(), straight.average.module.state_dict())
    assert (tmp_path / "split" / "model.pt").exists()


def test_a_run_writes_what_it_promises(tmp_path):
    trainer = tiny_trainer(tmp_path)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.run()
    reports = [line for line in log_lines(tmp_path) if "loss" in line]
    assert [line["iteration"] for line in reports] == [2, 4, 6]
    assert {"loss/cls_1", "loss/box_dn_0", "lr", "grad_norm", "samples_per_second", "skipped"} <= reports[0].keys()
    assert any((tmp_path / "tensorboard").iterdir())
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["meta"]["iterations"] == 6 and content["config"]["num_anchors"] == 24
    assert not same(start, trainer.model.state_dict())


def test_accumulated_batches_have_streams_of_their_own(tmp_path):
    trainer = tiny_trainer(tmp_path, iterations=4, accumulation=2)
    trainer.run()
    assert len(trainer.states) == 2 and all(state.batch_size == 1 for state in trainer.states)


def test_weights_of_some_epochs_stay(tmp_path):
    trainer = tiny_trainer(tmp_path, iterations=5)
    schedule = replace(trainer.config.schedule, checkpoint_every_epochs=2)
    trainer.config = replace(trainer.config, schedule=schedule)
    trainer.settings = replace(trainer.settings, epoch_iterations=1)
    trainer.run()
    assert sorted(os.listdir(tmp_path / "epochs")) == ["002.pt", "004.pt"]
    early, late = (torch.load(tmp_path / "epochs" / name, weights_only=True) for name in ("002.pt", "004.pt"))
    assert (early["meta"]["iterations"], late["meta"]["iterations"]) == (2, 4)
    assert not same(early["state_dict"], late["state_dict"])


def test_damaged_checkpoints_are_passed_over(tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    for iteration in range(1, 5):
        store.save(iteration, {"iteration": iteration, "weights": torch.arange(1000)})
    names = sorted(path.name for path in tmp_path.glob("*.pt"))
    assert names == ["000000002.pt", "000000003.pt", "000000004.pt"]
    cut, flipped = tmp_path / names[2], tmp_path / names[1]
    cut.write_bytes(cut.read_bytes()[:500])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    assert store.newest()["iteration"] == 2
    assert "instead of" in damage(cut) and "another SHA-256" in damage(flipped)
    assert "000000004.pt" in caplog.text and "000000003.pt" in caplog.text
    flipped.with_suffix(".json").unlink()
    assert "no readable size" in damage(flipped)


def test_what_is_saved_stays_below_damaged_checkpoints(tmp_path):
    """As in a folder that was copied without the .json files: the run starts anew below its old numbers."""
    store = CheckpointStore(tmp_path)
    for iteration in (1000, 2000, 3000):
        store.save(iteration, {"iteration": iteration})
    for record in tmp_path.glob("*.json"):
        record.unlink()
    assert store.newest() is None
    for iteration in (50, 100, 150, 200):
        assert store.save(iteration, {"iteration": iteration}).is_file()
        assert store.newest()["iteration"] == iteration
    kept = sorted(path.stem.lstrip("0") for path in tmp_path.glob("*.pt"))
    assert kept == ["100", "1000", "150", "200", "2000", "3000"]


def test_a_full_disk_leaves_earlier_checkpoints(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(1, {"iteration": 1})

    def full(content, path):
        pathlib.Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="000000002.pt: checkpoint could not be written.*No space left"):
        store.save(2, {"iteration": 2})
    assert store.newest()["iteration"] == 1
    assert sorted(os.listdir(tmp_path)) == ["000000001.json", "000000001.pt"]


def test_a_checkpoint_of_another_preset_or_optimizer_is_refused(tmp_path):
    trainer = tiny_trainer(tmp_path, iterations=1)
    trainer.run()
    content = trainer.store.newest()
    trainer.store.save(2, {**content, "preset": "v3_r50"})
    with pytest.raises(ValueError, match="holds a run of v3_r50, this one is demo"):
        tiny_trainer(tmp_path).resume()
    trainer.store.save(3, content)
    adamw = replace(tiny_run.TRAINING, optimizer=replace(tiny_run.TRAINING.optimizer, muon_momentum=None))
    with pytest.raises(ValueError, match="2 optimizers, this training has 1; leave training.optimizer.muon_momentum"):
        tiny_trainer(tmp_path, training=adamw).resume()


def test_an_average_can_be_switched_on_in_a_resumed_run(tmp_path):
    """It starts from the weights as they are then, and is what the run leaves."""
    without = replace(tiny_run.TRAINING, schedule=replace(tiny_run.TRAINING.schedule, ema_decay=0.0))
    tiny_trainer(tmp_path, iterations=2, training=without).run()
    trainer = tiny_trainer(tmp_path, iterations=4)
    assert trainer.resume() and same(trainer.average.module.state_dict(), trainer.model.state_dict())
    trainer.run()
    used = torch.load(tmp_path / "model.pt", weights_only=True)["state_dict"]
    assert same(used, trainer.average.module.state_dict()) and not same(used, trainer.model.state_dict())


def with_optimizer(**numbers):
    return replace(tiny_run.TRAINING, optimizer=replace(tiny_run.TRAINING.optimizer, **numbers))


def test_numbers_of_the_optimizers_can_change_in_a_resumed_run(tmp_path):
    """They count from then on; what the optimizers have learned of the parameters stays."""
    first = tiny_trainer(tmp_path, iterations=1)
    first.run()
    changed = {"weight_decay": 0.5, "betas": (0.8, 0.9), "eps": 1e-4}
    trainer = tiny_trainer(tmp_path, training=with_optimizer(**changed, muon_momentum=0.5, backbone_lr_factor=0.25))
    assert trainer.resume()
    adamw, muon = ([dict(group, params=None) for group in one.param_groups] for one in trainer.optimizers)
    assert all(group[name] == value for group in adamw for name, value in changed.items())
    assert [(group["weight_decay"], group["momentum"]) for group in muon] == [(0.5, 0.5)] * 2
    assert [group["lr_factor"] for group in (*adamw, *muon)] == [1.0, 0.25] * 2
    for ours, theirs in zip(trainer.optimizers, first.optimizers, strict=True):
        one, other = ours.state_dict()["state"], theirs.state_dict()["state"]
        assert one.keys() == other.keys() and all(same(one[index], other[index]) for index in one)


def test_a_resumed_run_can_accumulate_otherwise(tmp_path, caplog):
    """A step has the same streams in other batches, of which nothing is remembered."""
    for done, accumulation in ((0, 1), (1, 2), (2, 1)):
        trainer = tiny_trainer(tmp_path, iterations=done + 1, accumulation=accumulation)
        assert trainer.resume() == (done > 0) and trainer.states == [None] * accumulation
        trainer.run()
    assert trainer.iteration == 3
    assert [record.getMessage() for record in caplog.records] == [
        "resume: accumulation: 1 in the run, 2 now; all streams start without a memory",
        "resume: accumulation: 2 in the run, 1 now; all streams start without a memory",
    ]


def test_a_resumed_run_can_turn_to_half_precision(tmp_path):
    tiny_trainer(tmp_path, iterations=1).run()
    trainer = tiny_trainer(tmp_path, iterations=2)
    trainer.objective.half = torch.float16
    trainer.scaler = torch.amp.GradScaler("cpu", 32.0)
    assert trainer.resume()
    trainer.run()
    assert (trainer.iteration, trainer.skipped, trainer.scaler.get_scale()) == (2, 0, 32.0)


def spoil(trainer, iterations: range) -> list[list[str]]:
    """Batches of these iterations hold a picture that is not finite; returns the tokens of all batches."""
    take, tokens = trainer.loader.take, []

    def taking(count: int):
        batches = take(count)
        tokens.append([token for batch in batches for token in batch.tokens])
        if trainer.iteration in iterations:
            batches[0].inputs.images[0, 0, 0, 0, 0] = float("nan")
        return batches

    trainer.loader.take = taking
    return tokens


def test_one_bad_step_is_skipped_and_named(tmp_path):
    trainer = tiny_trainer(tmp_path)
    tokens = spoil(trainer, range(3, 4))
    trainer.run()
    events = [line for line in log_lines(tmp_path) if "event" in line]
    assert trainer.skipped == 1 and len(events) == 1
    assert events[0]["iteration"] == 4 and events[0]["samples"] == tokens[3] and "not finite" in events[0]["event"]
    for model in (trainer.model, trainer.average.module):
        assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_loss_scale_of_half_precision_is_static(tmp_path):
    """As in the published training. One that grows until something overflows would drop the memory of all streams."""
    trainer = tiny_trainer(tmp_path)
    trainer.objective.half = torch.float16
    trainer.scaler = torch.amp.GradScaler("cpu", 32.0, growth_interval=1)
    spoil(trainer, range(2, 3))
    scales = []
    for _ in range(4):
        finite = trainer._optimise(trainer._read()).finite
        scales.append((finite, trainer.scaler.get_scale()))
        trainer.iteration += 1
        trainer.states = trainer.states if finite else [None]  # as the loop does
    assert scales == [(True, 32.0), (True, 32.0), (False, 32.0), (True, 32.0)]


def test_bad_steps_in_a_row_end_the_run(tmp_path):
    trainer = tiny_trainer(tmp_path, iterations=20)
    tokens = spoil(trainer, range(2, 20))
    with pytest.raises(TrainingDivergedError, match="5 steps in a row") as error:
        trainer.run()
    assert trainer.iteration == 7 and all(token in str(error.value) for token in tokens[-1])


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> pathlib.Path:
    """What tiny_run leaves when it is started as a program in two processes."""
    out = tmp_path_factory.mktemp("two_processes")
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(tiny_run.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tiny_run.__file__]
    run = subprocess.run([*command, str(out)], env=environment, timeout=600, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "FutureWarning" not in run.stderr
    return out


@pytest.mark.slow
def test_processes_whose_batches_are_empty_do_not_wait_for_each_other(two_processes):
    reports = [line for line in log_lines(two_processes / "empty") if "loss" in line]
    assert [line["iteration"] for line in reports] == [2, 4, 6, 8]
    assert all(f"loss/{name}_{layer}" in line for line in reports for name in ("cls_dn", "box_dn") for layer in (0, 1))


def without_objects(targets: Targets) -> Targets:
    kept = {name: getattr(targets, name)[:, :0] for name in ("boxes", "labels", "instance_ids")}
    return replace(targets, counts=(0,) * len(targets.counts), **kept)


def test_accumulated_batches_may_be_empty(tmp_path):
    """Without objects in the first, the second or both batches of a step: all terms are there, as means over both."""
    trainer = tiny_trainer(tmp_path, iterations=3, accumulation=2)
    take, optimise, steps = trainer.loader.take, trainer._optimise, []

    def taking(count: int):
        batches = take(count)
        for index in ((0,), (1,), (0, 1))[trainer.iteration]:
            batches[index] = replace(batches[index], targets=without_objects(batches[index].targets))
        return batches

    def optimising(batches):
        steps.append(optimise(batches))
        return steps[-1]

    trainer.loader.take, trainer._optimise = taking, optimising
    trainer.run()
    for step in steps:
        first, second = (result.losses for result in step.results)
        assert step.losses.keys() == first.keys() == second.keys() >= {"cls_0", "box_0", "cls_dn_1", "box_dn_1"}
        for name, value in step.losses.items():
            assert value == pytest.approx((first[name].item() + second[name].item()) / 2)


@pytest.mark.slow
def test_two_processes_train_as_one(two_processes, tmp_path):
    tiny_trainer(tmp_path, 4, None, *tiny_run.without_randomness()).run()
    runs = tmp_path, two_processes / "shared"
    one, two = (torch.load(run / "model.pt", weights_only=True)["state_dict"] for run in runs)
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("in_proj_bias"):
            # Softmax does not see the keys' bias: its gradient is rounding noise, which Adam scales up to whole steps.
            keys = slice(len(one[name]) // 3, 2 * len(one[name]) // 3)
            one[name][keys] = two[name][keys] = 0
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")
    losses = [[line["loss"] for line in log_lines(run) if "loss" in line] for run in runs]
    assert len(losses[0]) == len(losses[1]) == 2


@pytest.mark.slow
def test_hosts_that_share_no_folder_continue_as_one(two_processes):
    """What was interrupted goes on bit for bit, from the checkpoint that only the first process has."""
    out = two_processes / "apart"
    straight, resumed = (
        torch.load(out / name / "0" / "model.pt", weights_only=True)["state_dict"] for name in ("straight", "resumed")
    )
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert not (out / "resumed" / "1").exists(), "the second process writes nothing"
    said = [(out / f"refused-{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1] and "dataroot: process 1 has 25 key frames, process 0 has 24 key frames" in said[0]


def test_learning_rate():
    config = OptimizerConfig(lr=1.0, warmup_iterations=10, warmup_ratio=0.25, min_lr_ratio=0.01)
    assert learning_rate(0, 100, config) == pytest.approx(0.25)
    assert learning_rate(50, 100, config) == pytest.approx(0.505)
    assert learning_rate(100, 100, config) == pytest.approx(0.01)
    rates = [learning_rate(i, 100, config) for i in range(101)]
    assert rates[:10] == sorted(rates[:10]) and rates[11:] == sorted(rates[11:], reverse=True)


def test_moving_average_follows_weights_and_statistics():
    """After every update: a = d a + (1 - d) x with d = min(decay, (1 + n) / (10 + n)); the first copies."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = moving_average(model, decay=0.5)
    expected = None
    for n in range(20):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean):
                tensor.fill_(float((n * 7) % 5))
        average.update_parameters(model)
        value = float((n * 7) % 5)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        for tensor in (*average.module.parameters(), average.module[1].running_mean):
            torch.testing.assert_close(tensor, torch.full_like(tensor, expected))
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(1, {"format": 1, "iteration": 1})
    with pytest.raises(ValueError, match="000000001.pt: has format 1, this version reads 3"):
        store.newest()
