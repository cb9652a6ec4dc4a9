"""The operator's benchmark: inputs are what they say, the runs of a row compute the same, figures are kept."""

from __future__ import annotations

import json

import pytest
import torch

from cuda_ops import benchmark, cpu_kernels, flatten_maps, measurement, reference
from cuda_ops.measurement import interleaved_medians, peak_memory
from cuda_ops.workload import Workload, make_inputs
from ops.paths import CPU_KERNELS

SMALL = Workload(anchors=40, cameras=6, image_wh=(128, 64), channels=32, groups=4)


def test_every_point_is_seen_by_about_one_camera():
    inputs = make_inputs(Workload(anchors=500, image_wh=(176, 64), channels=8), seed=0)
    seen = inputs.samples() / inputs.spatial_shapes.shape[1] / (500 * 13)
    assert 0.4 < seen < 1.4  # six times 70 degrees of 360, less what is above or below the images


def test_plain_fused_and_batched_inputs_are_the_same_problem():
    inputs = make_inputs(SMALL, seed=1)
    plain = reference.deformable_aggregation(*inputs.plain())
    torch.testing.assert_close(plain, reference.fused_deformable_aggregation(*inputs.fused()))
    torch.testing.assert_close(plain, reference.batched_deformable_aggregation(*inputs.batched()))
    features, shapes, starts = flatten_maps(inputs.maps)
    assert torch.equal(features, inputs.features)
    assert shapes == [list(map(tuple, camera)) for camera in inputs.spatial_shapes.tolist()]
    assert starts == inputs.scale_start_index.tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1.0, 1e30])
def test_batched_reference_equals_the_other_at_the_border_too(value):
    inputs = make_inputs(SMALL, seed=2)
    location, weights = inputs.location.double(), inputs.weights.double()
    location[0, ::3, :, :, 0] = value
    location[0, 1::3] = torch.rand(location[0, 1::3].shape, generator=torch.Generator().manual_seed(0)).double()
    leaves = [inputs.features.double().requires_grad_(), location.requires_grad_(), weights.requires_grad_()]
    single = reference.deformable_aggregation(leaves[0], inputs.spatial_shapes, inputs.scale_start_index, *leaves[1:])
    maps = [m.double().requires_grad_() for m in inputs.maps]
    batched = reference.batched_deformable_aggregation(maps, *leaves[1:])
    torch.testing.assert_close(batched, single, rtol=1e-9, atol=1e-9)
    expected = torch.autograd.grad(single.square().sum(), leaves)
    *of_maps, of_location, of_weights = torch.autograd.grad(batched.square().sum(), [*maps, *leaves[1:]])
    for actual, other in zip((flatten_maps(of_maps)[0], of_location, of_weights), expected, strict=True):
        torch.testing.assert_close(actual, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_the_runs_of_a_row_compute_the_same(fused):
    sets = [make_inputs(SMALL, seed) for seed in range(2)]
    kernel, single, batched, layout, from_channels_last = benchmark._forward_runs(sets, fused)
    torch.testing.assert_close(kernel(1), single(1))
    torch.testing.assert_close(kernel(1), batched(1))
    assert torch.equal(layout(1)[0], sets[1].features) and torch.equal(from_channels_last(1)[0], sets[1].features)
    assert not torch.equal(kernel(0), kernel(1))
    maps = benchmark._channels_last(sets[0].maps[0])
    assert maps[0].is_contiguous(memory_format=torch.channels_last) and torch.equal(maps, sets[0].maps[0])
    kernel, single, batched, layout = benchmark._backward_runs(sets[0])
    torch.testing.assert_close(kernel(), single())
    torch.testing.assert_close(kernel()[1:], batched()[-2:])
    assert [t.shape for t in layout()] == [m.shape for m in sets[0].maps]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only `clock.pass_(seconds)` moves, so that figures are exact."""

    class Clock:
        now = 0.0

        def pass_(self, seconds: float) -> None:
            self.now += seconds

    made = Clock()
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: made.now)
    return made


def test_medians(clock):
    """The first run of each warms up; the others take turns, each on the next of the inputs."""
    order = []

    def run(name: str, seconds: list[float]):
        def once(number: int) -> None:
            order.append((name, number))
            clock.pass_(seconds.pop(0))

        return once

    runs = [run("a", [100, 3, 1, 2]), run("b", [50, 7])]
    assert interleaved_medians(runs, 2, [3, 1]) == [2, 7]
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 0), ("a", 1)]


def test_ratios_and_layout_of_a_row():
    row = benchmark._row("forward", Workload(), torch.bfloat16, [0.002, 0.1, 0.2, 0.003, 0.001])
    assert row["kernel_ms"] == 2 and row["layout_ms"] == 3 and row["layout_channels_last_ms"] == 1
    assert row["dtype"] == "bfloat16" and row["visible"] == "ring"
    assert (row["speedup"], row["batched_speedup"]) == (50, 100)
    assert row["batched_speedup_with_layout"] == pytest.approx(40)


def test_floors():
    def row(operation: str, speedup: float, batched: float, **changes) -> benchmark.Row:
        times = [1.0, speedup, batched, 0.0]
        return benchmark._row(operation, Workload(**changes), torch.float32, times) | {"kernels": "avx2"}

    good = [row("forward", 15, 16), row("backward", 8, 9)]
    elsewhere = [row("forward", 1, 1, anchors=300), row("forward", 1, 1, everywhere=True), row("fused forward", 1, 1)]
    assert benchmark.below_floor(good + elsewhere) == []
    (slow,) = benchmark.below_floor([*good, row("forward", 20, 14)])
    assert slow == "forward in float32 with the avx2 kernels: 14.0 times as fast as PyTorch, expected at least 15 times"
    assert len(benchmark.below_floor([row("backward", 7, 20)])) == 1


@pytest.fixture
def used(monkeypatch):
    """Rows that are made up, a hundred times as fast as PyTorch: what each was asked for."""
    used = []

    def made_up(name: str):
        def row(workload, dtype, device, repeats, fused=False):
            used.append((name, str(dtype), fused, cpu_kernels.in_use() if device == "cpu" else device))
            return benchmark._row("fused forward" if fused else name, workload, dtype, [1.0, 100.0, 100.0, 0.5])

        return row

    monkeypatch.setattr(benchmark, "forward_row", made_up("forward"))
    monkeypatch.setattr(benchmark, "backward_row", made_up("backward"))
    for ceiling in ("read_ceiling", "cache_ceiling", "flop_ceiling"):
        monkeypatch.setattr(benchmark, ceiling, lambda device: 1e9)
    return used


def test_every_instruction_set_and_half_precision_have_their_rows(used, monkeypatch, tmp_path, capsys):
    """The whole command, on rows that are made up but for the kernels in use; those that are too slow end with 1."""
    out = tmp_path / "results/operator.json"
    assert benchmark.main(["--device", "cpu", "--no-growth", "--out", str(out)]) == 0
    for name in CPU_KERNELS:
        assert {("forward", "torch.float32", False, name), ("backward", "torch.float32", False, name)} <= set(used)
    assert ("forward", "torch.bfloat16", True, CPU_KERNELS[0]) in used
    rows = json.loads(out.read_text())["rows"]
    assert {row["kernels"] for row in rows} == set(CPU_KERNELS) and len(rows) == len(used)
    assert capsys.readouterr().out.count("\n") == len(rows) + 4
    monkeypatch.setattr(benchmark, "FLOORS", {"forward": 101, "backward": 8})
    assert benchmark.main(["--device", "cpu", "--no-growth"]) == 1
    assert "100.0 times as fast as PyTorch, expected at least 101 times" in capsys.readouterr().err


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one, and the devices that there are kernels for."""
    devices = ["cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(benchmark, "kernels_loaded", devices.__contains__)
    return devices


def test_without_kernels_for_the_gpu_those_for_the_cpu_are_measured(used, gpu):
    assert benchmark.main(["--no-growth"]) == 0
    assert {kernels for *_, kernels in used} == set(CPU_KERNELS)
    gpu.append("cuda")
    used.clear()
    assert benchmark.main(["--no-growth"]) == 0
    assert {kernels for *_, kernels in used} == {"cuda"}


def test_floors_are_for_the_cpu(used, gpu, monkeypatch):
    monkeypatch.setattr(benchmark, "FLOORS", {"forward": 101, "backward": 101})
    gpu.append("cuda:0")
    assert benchmark.main(["--no-growth", "--device", "cuda:0"]) == 0
    assert benchmark.main(["--no-growth", "--device", "cpu"]) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--repeats", "0"], "argument --repeats: expected a whole number of at least 1, got '0'"),
        (["--threads", "-1"], "argument --threads: expected a whole number of at least 1, got '-1'"),
        (["--device", "gpu"], "argument --device: expected cpu, cuda or cuda:NUMBER, got 'gpu'"),
        (["--device", "cuda:7"], "argument --device: cuda:7 is not there: GPUs that torch sees: 1"),
        (["--device", "cuda"], "there are no kernels for cuda; run: python -m cuda_ops.build"),
        (["--out", "{folder}"], "--out: expected a file, got the folder {folder}"),
        (["--out", "{folder}/file/operator.json"], "--out: [Errno 17] File exists: '{folder}/file'"),
    ],
    ids=["repeats", "threads", "device", "a GPU that is not there", "no kernels", "a folder", "below a file"],
)
def test_wrong_usage_is_refused_before_anything_is_measured(used, gpu, tmp_path, capsys, arguments, sentence):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        benchmark.main([argument.format(folder=tmp_path) for argument in arguments])
    assert end.value.code == 2 and not used
    assert capsys.readouterr().err.endswith(f"error: {sentence.format(folder=tmp_path)}\n")


def test_rows_hold_measured_figures():
    row = benchmark.forward_row(SMALL, torch.float32, "cpu", repeats=1)
    assert row["kernel_ms"] > 0 and row["layout_ms"] > 0 and row["batched_ms"] > 0
    assert row["speedup"] == pytest.approx(row["pytorch_ms"] / row["kernel_ms"])
    assert benchmark.backward_row(SMALL, torch.float32, "cpu", repeats=1)["kernel_ms"] > 0
    assert benchmark.growth_row(SMALL, "cpu")["batched_ms"] > 0
    assert benchmark.table([row]).count("\n") == 2


def test_peak_memory_measures():
    size = 64 * 2**20
    peak = peak_memory(lambda: torch.ones(size // 4))
    assert peak is None or 0.9 * size < peak < 1.5 * size


def test_the_gpu_that_is_measured_is_the_one_that_is_waited_for(monkeypatch):
    """A fake device: on a machine with several, each call must name the one that was asked for."""
    asked = []
    for name in ("synchronize", "memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device=None, name=name: asked.append((name, device)) or 0)
    interleaved_medians([lambda _: None], 1, [1], "cuda:1")
    assert peak_memory(lambda: None, "cuda:1") == 0
    assert len(asked) == 9 and {device for _, device in asked} == {"cuda:1"}
