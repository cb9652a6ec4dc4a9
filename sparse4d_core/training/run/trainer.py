"""The training loop: batches in, optimiser steps out, and nothing lost when something goes wrong."""

from __future__ import annotations

import logging
import math
import pathlib
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from ...checkpoint.weights import save_checkpoint
from ...data.nuscenes.tables import DatasetError
from ...interrupts import stop_requests
from ...network.sparse4d import Sparse4D
from ...network.state import TemporalState
from ..batches.batch import Batch
from ..batches.loader import BatchLoader
from ..objective.frame_objective import ForwardResult, TrainingObjective, restart
from ..schedule import TrainingConfig
from .journal import Journal
from .optimizer import learning_rate, make_optimizers, moving_average, restore, set_learning_rate
from .processes import Processes
from .run_state import pack_random_state, pack_state, pack_torch, unpack_random_state, unpack_state, unpack_torch
from .store import CheckpointStore
from .validation import Validation

log = logging.getLogger(__name__)


class TrainingDivergedError(RuntimeError):
    """Losses or gradients stayed non-finite over several iterations."""


@dataclass(frozen=True)
class RunSettings:
    out: pathlib.Path
    iterations: int
    accumulation: int = 1  # batches per optimiser step
    precision: str = "float32"  # of backbone and neck
    seed: int = 0
    report_every: int = 20  # iterations
    picture_every: int = 500  # iterations; 0 = never
    checkpoint_seconds: float = 300.0
    epoch_iterations: int = 0  # optimiser steps of an epoch; 0: epochs are not counted and none is kept
    max_bad_steps: int = 5  # non-finite steps in a row that end the run


@dataclass(frozen=True)
class Step:
    """One optimiser step of this process."""

    batches: list[Batch]
    results: list[ForwardResult]  # one per batch
    losses: dict[str, float]  # means over the batches
    gradient_norm: float  # of all processes together, before clipping: they decide alike whether it is finite

    @property
    def finite(self) -> bool:
        return math.isfinite(self.gradient_norm)


class Trainer:
    """One process of a run.

    Args:
        loader: endless batches; every iteration takes `settings.accumulation` of them, each with streams of its own.
    """

    def __init__(
        self,
        model: Sparse4D,
        config: TrainingConfig,
        loader: BatchLoader,
        settings: RunSettings,
        processes: Processes,
        validation: Validation | None = None,
    ):
        self.config, self.settings, self.processes, self.loader = config, settings, processes, loader
        # Channels last: convolutions are about 1.4 times as fast on CPUs (and faster in half precision on GPUs).
        self.model = model.to(processes.device, memory_format=torch.channels_last).train()
        self.objective = TrainingObjective(self.model, config, settings.precision, processes.average)
        self.forward = processes.averaging_gradients(self.objective)
        self.optimizers = make_optimizers(self.model, config.optimizer)
        self.scaler = torch.amp.GradScaler(
            processes.device.type, config.schedule.loss_scale, enabled=settings.precision == "float16"
        )
        decay = config.schedule.ema_decay
        self.average = moving_average(self.model, decay) if decay else None
        self.grid_rng = np.random.RandomState([settings.seed, processes.rank, 2])
        self.states: list[TemporalState | None] = [None] * settings.accumulation
        self.store = CheckpointStore(settings.out / "checkpoints")
        self.validation = validation
        self.best = -math.inf  # NDS of all validations
        self.iteration = 0
        self.skipped = 0
        self._bad_in_a_row = 0

    def run(self) -> None:
        """Train until the last iteration or until the process is asked to end (SIGTERM, SIGINT), then save.

        Raises:
            TrainingDivergedError: naming the samples of the last bad step.
            DatasetError: an image that cannot be read; what was learned so far is saved.
        """
        journal = Journal(self.settings.out, self.iteration, self.settings.iterations, self.processes.is_first)
        means = _Means()
        saved_at = time.monotonic()
        with stop_requests() as stop:
            try:
                while self.iteration < self.settings.iterations:
                    self._iterate(journal, means)
                    self._keep_epoch()
                    self._validate(journal)
                    stopping = self.processes.any(stop.requested)
                    due = self.processes.any(time.monotonic() - saved_at > self.settings.checkpoint_seconds)
                    if stopping or due:
                        self.save()
                        saved_at = time.monotonic()
                    if stopping:
                        journal.event(self.iteration, "asked to end; saved, --resume continues")
                        return
                self.save()
                self.export()
            except DatasetError as error:
                journal.event(self.iteration, f"data cannot be read: {error}")
                if self.processes.world_size == 1:  # several would have to meet for it, and the others do not come
                    self.save()
                raise
            finally:
                self.loader.close()
                journal.close()

    def _iterate(self, journal: Journal, means: _Means) -> None:
        """One optimiser step, from reading its data to reporting it."""
        began = time.monotonic()
        batches = self._read()
        loaded = time.monotonic()
        rate = learning_rate(self.iteration, self.settings.iterations, self.config.optimizer)
        set_learning_rate(self.optimizers, rate)
        step = self._optimise(batches)
        self.iteration += 1
        if step.finite:
            self._bad_in_a_row = 0
            losses = {f"loss/{name}": value for name, value in step.losses.items()}
            means.add({"loss": sum(step.losses.values()), **losses, "grad_norm": step.gradient_norm})
        else:
            self._skip(step, journal)
        means.add({"seconds_per_iteration": time.monotonic() - began, "seconds_loading": loaded - began})
        self._report(journal, means, step, rate)
        journal.advance()

    def _read(self) -> list[Batch]:
        return [batch.to(self.processes.device) for batch in self.loader.take(self.settings.accumulation)]

    def _optimise(self, batches: list[Batch]) -> Step:
        """Gradients of all batches and one step of the weights; a step that is not finite changes nothing."""
        statistics = [buffer.clone() for buffer in self.model.buffers()]
        results = self._backward(batches)
        norm = self._clip()
        losses = [torch.stack(list(result.losses.values())) for result in results]
        *means, norm = torch.cat([torch.stack(losses).mean(0).detach(), norm[None]]).tolist()  # one copy to the host
        step = Step(batches, results, dict(zip(results[0].losses, means, strict=True)), norm)
        self._update(step.finite)
        if not step.finite:
            for buffer, before in zip(self.model.buffers(), statistics, strict=True):
                buffer.copy_(before)  # batch norm has seen the bad batch
        return step

    def _report(self, journal: Journal, means: _Means, step: Step, rate: float) -> None:
        """What is due at this iteration: the means since the last report, and a picture."""
        last = self.iteration == self.settings.iterations
        if (last or self.iteration % self.settings.report_every == 0) and means:
            samples = sum(len(batch.tokens) for batch in step.batches) * self.processes.world_size
            report = {"loss": math.nan, **means.take(), "lr": rate, "skipped": self.skipped}
            journal.report(self.iteration, report | {"samples_per_second": samples / report["seconds_per_iteration"]})
        if step.finite and self.settings.picture_every and self.iteration % self.settings.picture_every == 0:
            self._picture(journal, step.batches[0], step.results[0])

    def timed_step(self) -> float:
        """Seconds of one optimiser step, reading its data included; for measurements, nothing is reported."""
        began = time.monotonic()
        self._optimise(self._read())
        if self.processes.device.type == "cuda":
            torch.cuda.synchronize(self.processes.device)
        return time.monotonic() - began

    def _backward(self, batches: list[Batch]) -> list[ForwardResult]:
        """Gradients of all batches of the iteration, averaged; the streams advance."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        results = []
        temporal = self.model.config.temporal
        for i, batch in enumerate(batches):
            if temporal is not None:
                self.states[i] = restart(self.states[i], batch.starts, batch.inputs, temporal.max_interval)
            last = i + 1 == len(batches)
            waiting = nullcontext() if last or self.processes.world_size == 1 else self.forward.no_sync()
            with waiting:
                result = self.forward(batch.inputs, batch.targets, self.states[i], batch.history, self.grid_rng)
                total = torch.stack(list(result.losses.values())).sum() / len(batches)
                self.scaler.scale(total).backward()
            self.states[i] = result.state.detach() if temporal is not None else None
            results.append(result)
        return results

    def _clip(self) -> Tensor:
        """Clips the gradients; returns their norm [] before, on the device."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        parameters = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.max_grad_norm)

    def _update(self, finite: bool) -> None:
        """One step of the weights and their average; none where the gradients are not finite."""
        if finite:
            for optimizer in self.optimizers:
                self.scaler.step(optimizer)
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.scaler.update(self.config.schedule.loss_scale)  # static: it neither grows nor shrinks

    def _skip(self, step: Step, journal: Journal) -> None:
        """Count and name a step that is not finite; all streams start anew.

        Raises:
            TrainingDivergedError: it was one too many in a row.
        """
        self.skipped += 1
        self._bad_in_a_row += 1
        self.states = [None] * len(self.states)
        bad = sorted(name for name, value in step.losses.items() if not math.isfinite(value))
        own = [token for batch in step.batches for token in batch.tokens]
        suspects = [token for rank in self.processes.gather(own if bad else []) for token in rank] or own
        what = f"losses {', '.join(bad)}" if bad else "gradient"
        journal.event(self.iteration, f"step skipped: {what} not finite", samples=suspects)
        if self._bad_in_a_row >= self.settings.max_bad_steps:
            raise TrainingDivergedError(
                f"{self._bad_in_a_row} steps in a row were not finite (last: {what}); samples of the last one: "
                f"{', '.join(suspects)}. Look at their annotations and images, or lower the learning rate; the last "
                f"good checkpoint is in {self.store.folder}"
            )

    def save(self) -> None:
        """Write a checkpoint from which `resume` continues exactly."""
        own = {
            "loader": self.loader.state(),
            "grid": pack_random_state(self.grid_rng),
            "random": pack_torch(self.processes.device),
            "states": [pack_state(state) for state in self.states],
        }
        ranks = self.processes.gather(own)
        if not self.processes.is_first:
            return
        content = {
            "preset": self.model.config.name,
            "iteration": self.iteration,
            "skipped": self.skipped,
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "ranks": ranks,
        }
        self.store.save(self.iteration, content)

    def resume(self) -> bool:
        """Continue from the newest intact checkpoint of the first process's folder; False if there is none.

        Raises:
            ValueError: if it is of another preset, batch size, number of processes or optimizers.
        """
        content = self.processes.from_first(self.store.newest() if self.processes.is_first else None)
        if content is None:
            return False
        if content["preset"] != self.model.config.name:
            raise ValueError(
                f"resume: {self.store.folder} holds a run of {content['preset']}, this one is "
                f"{self.model.config.name}; give another --out"
            )
        if len(content["ranks"]) != self.processes.world_size:
            raise ValueError(
                f"resume: the run had {len(content['ranks'])} processes, this one has {self.processes.world_size}"
            )
        states = content.get("optimizers", [])
        if len(states) != len(self.optimizers):
            raise ValueError(
                f"resume: {self.store.folder} has {len(states)} optimizers, this training has {len(self.optimizers)}; "
                "leave training.optimizer.muon_momentum as it was, or give another --out"
            )
        self.iteration, self.skipped, self.best = content["iteration"], content["skipped"], content["best"]
        self.model.load_state_dict(content["model"])
        for optimizer, state in zip(self.optimizers, states, strict=True):
            restore(optimizer, state)
        if content["scaler"]:  # empty where the run had another precision than float16 so far
            self.scaler.load_state_dict(content["scaler"])
        if self.average is not None and content["average"] is None:  # ema_decay is new: it starts from these weights
            self.average.module.load_state_dict(content["model"])
        elif self.average is not None:
            self.average.load_state_dict(content["average"])
        own = content["ranks"][self.processes.rank]
        self.loader.restore(own["loader"])
        unpack_random_state(self.grid_rng, own["grid"])
        accumulation = self.settings.accumulation
        if len(own["states"]) == accumulation:
            self.states = [unpack_state(state, self.processes.device) for state in own["states"]]
        else:  # they are of batches of another size; without them the streams go on as after a skipped step
            log.warning(
                "resume: accumulation: %d in the run, %d now; all streams start without a memory",
                len(own["states"]), accumulation,
            )  # fmt: skip
        unpack_torch(own["random"], self.processes.device)
        return True

    def _keep_epoch(self) -> None:
        """RUN/epochs/020.pt and so on: weights that stay, whatever comes after them."""
        interval = self.config.schedule.checkpoint_every_epochs * self.settings.epoch_iterations
        if interval and self.iteration % interval == 0:
            epoch = self.iteration // self.settings.epoch_iterations
            self.export(self.settings.out / "epochs" / f"{epoch:03d}.pt")

    def _validate(self, journal: Journal) -> None:
        """Scores on other scenes where they are due; RUN/best.pt holds the weights of the best NDS so far."""
        last = self.iteration == self.settings.iterations
        if self.validation is None or (self.iteration % self.validation.every and not last):
            return
        scores = self.validation.scores(self.usable, self.processes)
        journal.scores(self.iteration, scores)
        if scores["nds"] > self.best:
            self.best = scores["nds"]
            self.export(self.settings.out / "best.pt", scores)

    @property
    def usable(self) -> Sparse4D:
        """The weights to use: averaged where an average is kept."""
        return self.model if self.average is None else self.average.module

    def export(self, path: pathlib.Path | None = None, scores: dict[str, float] | None = None) -> None:
        """The weights to use as a checkpoint (default: RUN/model.pt)."""
        if not self.processes.is_first:
            return
        meta = {"iterations": self.iteration, "seed": self.settings.seed, "training": _plain(asdict(self.config))}
        meta |= {} if scores is None else {"scores": scores}
        save_checkpoint(path or self.settings.out / "model.pt", self.usable, meta)

    def _picture(self, journal: Journal, batch: Batch, result: ForwardResult) -> None:
        from .tensorboard_pictures import overlay

        if self.processes.is_first:
            journal.picture(self.iteration, "sample", overlay(batch, result.output, self.model.config))


class _Means:
    """Running means between two reports."""

    def __init__(self):
        self._values: dict[str, list[float]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._values[name].append(value)

    def take(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values.clear()
        return means


def _plain(value):
    """Tuples to lists, so that any reader understands it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
