"""Jobs small enough to be killed by the dozen, each trained by the lab's own loop."""

import json
import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import torch
import torch._dynamo  # As the first optimizer would: here once, not once a fork.
from rich.console import Console
from torch import nn

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Job
from linear_backprop_lab.sweeps import EngineName, Sweep, choose_engine, run_here
from linear_backprop_lab.training import Recipe, train

EPOCHS, BATCHES = 20, 4
STEPS = EPOCHS * BATCHES


def tiny_job(root: Path, seed: int, fault: str = "") -> Job:
    """A job that trains, or has the fault that is named: `nan`, `slow` or one of `FAULTS`."""
    run = Run(root, {"experiment": "tiny", "seed": seed} | ({"fault": fault} if fault else {}))
    return Job(run, f"tiny {fault} {seed}", STEPS, partial(perform, run, seed, fault))


def perform(run: Run, seed: int, fault: str, on_step) -> None:
    torch.set_num_threads(1)
    if fault in FAULTS:
        FAULTS[fault](run)
    recipe = Recipe(epochs=EPOCHS, batch_size=16, learning_rate=1e38 if fault == "nan" else 0.05, seed=seed)
    if fault == "slow":
        on_step = slowly(on_step)
    train(model(seed), data(), recipe, run, on_step=on_step)


def slowly(on_step):
    def wait(step: int) -> None:
        time.sleep(0.2)
        on_step(step)

    return wait


def count(run: Run) -> None:
    """A line for each time a run is made."""
    with (run.folder.parents[1] / "made.txt").open("a") as file:
        file.write(f"{run.key}\n")


def take_all_memory(run: Run) -> None:
    """Ask for more than the process may have."""
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, resource.RLIM_INFINITY))
    torch.zeros(16 * 2**30, dtype=torch.uint8)


def die(run: Run) -> None:
    """As the system's out-of-memory killer would have it."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(run: Run) -> None:
    """Dead the first time."""
    died = run.folder.parents[1] / "died"
    if not died.exists():
        died.touch()
        die(run)


def write_down_what_is_assigned(run: Run) -> None:
    """What Ray gives the task."""
    import ray

    assigned = ray.get_runtime_context().get_assigned_resources()
    (run.folder.parents[1] / "assigned.json").write_text(json.dumps(assigned))


def raise_error(run: Run) -> None:
    """A mistake."""
    raise ZeroDivisionError("no such [thing]")


FAULTS = {
    "memory": take_all_memory,
    "killed": die,
    "killed once": die_once,
    "error": raise_error,
    "counted": count,
    "assigned": write_down_what_is_assigned,
}


def model(seed: int) -> nn.Module:
    """With what a checkpoint has to bring back: buffers, and random numbers drawn in the forward pass."""
    torch.manual_seed(seed)
    layers = nn.Flatten(), nn.Linear(108, 100), nn.BatchNorm1d(100), nn.Tanh(), nn.Dropout(0.2), nn.Linear(100, 3)
    return nn.Sequential(*layers)


def data() -> ImageDataset:
    labels = torch.arange(96) % 3
    images = torch.randint(0, 256, (96, 3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    train_size = 16 * BATCHES
    split = images[:train_size], labels[:train_size], images[train_size:], labels[train_size:]
    return ImageDataset("made-up", *split, ("a", "b", "c"), "a test")


def sweep(root: str, runs: int, fault: str = "", workers: int = 1) -> int:
    """Make `runs` runs as the command line does; how many failed."""
    jobs = [tiny_job(Path(root), seed, fault) for seed in range(runs)]
    engine = choose_engine(EngineName.LOCAL, workers)
    return Sweep.of(jobs).perform(engine, Console(stderr=True, quiet=True))


def make(job: Job) -> None:
    """Make one run, undisturbed."""
    assert Sweep.of([job]).perform(run_here, Console(quiet=True)) == 0


def without_time(run: Run) -> list[dict]:
    """The metrics that two runs of the same configuration share."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.metrics]
