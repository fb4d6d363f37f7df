"""What a step costs in `bench_little_memory`: peak memory, bytes sent, time."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from bench_bytes import sent_by_collapse, sent_by_ddp
from bench_memory import SEGMENTS, checkpointed, collapsed_in_parts, in_parts
from harness import medians, seconds, where_and_when
from little_memory import CALIBRATION, CLASSES, NETWORKS, Setting
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from works import step

WORKERS, LARGE = 2, 8
Costs = dict[str, dict[str, Any]]  # by network and kind


@dataclass(frozen=True)
class Way:
    """One way of making a step of a method; those of one method make the same step.

    Attributes:
        name: Of the way.
        method: The name of the method.
        run: Forward and backward, from the model as the method makes it and a batch.
    """

    name: str
    method: str
    run: Callable[[Any, Tensor, Tensor], None]


def ways_of(network: str, setting: Setting) -> list[Way]:
    """Every way of training a network."""
    usual, *others = NETWORKS[network].methods
    parts = partial(in_parts_of, micro=setting.micro)
    found = [
        Way(usual, usual, step),
        Way(f"{usual}, checkpointing in {SEGMENTS}", usual, step_checkpointed),
        Way(f"{usual}, micro-batches", usual, parts),
        Way("Linear, collapsed", "Linear", step),
        Way("Linear, collapsed, accumulate()", "Linear", partial(collapsed_in_parts, micro=setting.micro)),
    ]
    if "LocallyExact" in others:
        found += [
            Way("LocallyExact, collapsed", "LocallyExact", step),
            Way("LocallyExact, collapsed, micro-batches", "LocallyExact", parts),
        ]
    return found


def step_checkpointed(model: nn.Module, x: Tensor, target: Tensor) -> None:
    """One step under activation checkpointing."""
    step(partial(checkpointed, model), x, target)


def in_parts_of(run: Any, x: Tensor, target: Tensor, micro: int) -> None:
    """One step in micro-batches."""
    in_parts(run, x, target, micro)


def prepared(network: str, method: str, setting: Setting, **options: Any) -> nn.Module:
    """The model as the method makes it, calibrated on noise."""
    each = NETWORKS[network]
    torch.manual_seed(1)
    return each.methods[method](each.model(setting, torch.randn(CALIBRATION, 3, 32, 32), seed=0), **options)


def batch_of(samples: int) -> tuple[Tensor, Tensor]:
    """Images and labels drawn at random."""
    torch.manual_seed(2)
    return torch.randn(samples, 3, 32, 32), torch.randint(CLASSES, (samples,))


def training_step(model: nn.Module, way: Way, x: Tensor, target: Tensor) -> Callable[[], None]:
    """Forward, backward and Adam's step, at a rate that changes nothing."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)

    def run() -> None:
        optimizer.zero_grad()
        way.run(model, x, target)
        optimizer.step()

    return run


def peaks_of(network: str, setting: Setting) -> dict[str, dict[str, float]]:
    """The megabytes of every way; see `peaks`."""
    return {way.name: peaks(network, way, setting) for way in ways_of(network, setting)}


def peaks(network: str, way: Way, setting: Setting) -> dict[str, float]:
    """The megabytes of tensors at the peak of a step, its batch excepted.

    Returns:
        `step`, a whole step: parameters and Adam's averages, and what forward, backward and Adam's step add; `large`,
        the same of a large batch; `large_gradients`, its forward and backward alone.
    """
    model = prepared(network, way.method, setting)
    usual, large = batch_of(setting.batch_size), batch_of(LARGE * setting.batch_size)
    steps = [training_step(model, way, *batch) for batch in (usual, large)]
    for step_ in steps:  # captures the graph, and makes Adam's averages
        step_()
    kept = 3 * sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    measured = {"step": steps[0], "large": steps[1], "large_gradients": partial(way.run, model, *large)}
    found = {}
    for name, run in measured.items():
        model.zero_grad()
        found[name] = kept + allocated_by(run)
    return found


def allocated_by(run: Callable[[], None]) -> float:
    """The megabytes of tensors that a call has at once, at most: PyTorch's own count of what it allocates and frees."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events: list[Any] = profiled.profiler.kineto_results.events()  # pyright: ignore
    changes = [event for event in events if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes)) / 2**20


def bytes_of(network: str, setting: Setting) -> dict[str, int]:
    """What a worker hands to all-reduce in one step, by method: DDP's gradients, or the collapsed pass's sums."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(folder, network, setting), nprocs=WORKERS)
        return json.loads((Path(folder) / "bytes.json").read_text())


def _worker(rank: int, folder: str, network: str, setting: Setting) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    x, target = (part.chunk(WORKERS)[rank] for part in batch_of(setting.batch_size))
    usual, *others = NETWORKS[network].methods
    sent = {usual: sent_by_ddp(prepared(network, usual, setting), x, target)}
    for method in others:
        fast = prepared(network, method, setting, process_group=dist.group.WORLD)
        sent[method] = sent_by_collapse(fast, x, target)
    if rank == 0:
        (Path(folder) / "bytes.json").write_text(json.dumps(sent))
    dist.destroy_process_group()


def times_of(network: str, setting: Setting, rounds: int) -> dict[str, float]:
    """Median seconds of a training step, all ways taking turns."""
    batch = batch_of(setting.batch_size)
    steps = {
        way.name: training_step(prepared(network, way.method, setting), way, *batch)
        for way in ways_of(network, setting)
    }
    return medians({name: partial(seconds, run) for name, run in steps.items()}, rounds)


def measure(path: Path, setting: Setting, network: str, kind: str, rounds: int) -> None:
    """Add one kind of cost of a network to a file: "memory" (with the bytes sent) or "time"."""
    costs: Costs = json.loads(path.read_text()) if path.exists() else {}
    if kind == "memory":
        found = {"peaks": peaks_of(network, setting), "bytes": bytes_of(network, setting)}
    else:
        found = {"seconds": times_of(network, setting, rounds)}
    costs.setdefault(network, {}).update({kind: {**found, "where": where_and_when()}})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(costs, indent=1) + "\n")
