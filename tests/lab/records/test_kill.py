"""A writing process is killed (SIGKILL) at many moments: at most the epoch under way is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linear_backprop_lab.records import Run, runs_below

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX")

EPOCHS = 12
KILLS = 40

# Forks a writer for every line it reads, so that torch is imported once, not once a kill.
NURSERY = f"""
import os, sys
from pathlib import Path
import numpy as np, torch
from linear_backprop_lab.records import Run

def write(run):
    checkpoint = run.resume()
    if checkpoint is None:
        run.start()
        done = 0
    else:
        done = checkpoint["epoch"]
        run.keep_metrics(done)
    for epoch in range(done + 1, {EPOCHS} + 1):
        run.log(epoch=epoch, filler="x" * 2000)
        run.save_arrays("state", values=np.full(20_000, epoch))
        run.save_checkpoint(epoch=epoch, weight=torch.full((20_000,), float(epoch)))
    run.close(epochs=len(run.metrics))

for line in sys.stdin:
    seed = int(line)
    child = os.fork()
    if child == 0:
        write(Run(Path(sys.argv[1]), {{"experiment": "kill", "seed": seed}}))
        os._exit(0)
    print(child, flush=True)
    # Not waited for until it has been killed: its number could be another's by then.
    sys.stdin.readline()
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """Runs writers, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def write(self, run: Run) -> None:
        """Let a writer run to its end."""
        self._begin(run)
        assert self._status() == 0

    def kill(self, run: Run, lines: int, delay: float) -> None:
        """Kill a writer that many seconds after the metrics have that many lines."""
        child = self._begin(run)
        deadline = time.monotonic() + 30
        while count_lines(run) < lines and time.monotonic() < deadline:
            time.sleep(0.0002)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        assert self._status() in (0, signal.SIGKILL)

    def _begin(self, run: Run) -> int:
        self._say(str(run.config["seed"]))
        return int(self.process.stdout.readline())

    def _status(self) -> int:
        self._say("")
        return int(self.process.stdout.readline())

    def _say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    command = [sys.executable, "-c", NURSERY, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Nursery(process)
        process.stdin.close()


def count_lines(run: Run) -> int:
    path = run.folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def run_of(root: Path, seed: int) -> Run:
    return Run(root, {"experiment": "kill", "seed": seed})


def assert_consistent(run: Run) -> None:
    """Whatever there is can be read, and no file lags the one written before it by more than an epoch."""
    epochs = [line["epoch"] for line in run.metrics]
    assert epochs == list(range(1, len(epochs) + 1))
    if (run.folder / "state.npz").exists():
        values = run.arrays("state")["values"]
        assert (values == values[0]).all()
        assert values[0] in (len(epochs), len(epochs) - 1)
    checkpoint = run.resume()
    if checkpoint is not None:
        assert (checkpoint["weight"] == checkpoint["epoch"]).all()
        assert checkpoint["epoch"] in (len(epochs), len(epochs) - 1)
    elif not run.is_complete:
        assert len(epochs) <= 1


def assert_complete(run: Run) -> None:
    assert run.record == {"epochs": EPOCHS}
    assert [line["epoch"] for line in run.metrics] == list(range(1, EPOCHS + 1))
    np.testing.assert_array_equal(run.arrays("state")["values"], np.full(20_000, EPOCHS))


def test_killed_at_many_moments(nursery: Nursery, tmp_path: Path) -> None:
    moments = random.Random(0)
    runs = [run_of(tmp_path, seed) for seed in range(KILLS)]
    for run in runs:
        nursery.kill(run, lines=moments.randint(0, EPOCHS), delay=moments.uniform(0, 0.02))
        assert_consistent(run)
    # Otherwise the kills came too early or too late to show anything.
    assert sum(run.resume() is not None for run in runs) >= KILLS // 4
    complete = [run for run in runs if run.is_complete]
    assert {run.folder for run in runs_below(tmp_path)} == {run.folder for run in complete}
    for run in complete:
        assert_complete(run)


def test_killed_again_and_again_it_still_arrives(nursery: Nursery, tmp_path: Path) -> None:
    moments = random.Random(1)
    run = run_of(tmp_path, seed=0)
    epochs_done = []
    for lines in range(0, EPOCHS - 2, 2):
        nursery.kill(run, lines, delay=moments.uniform(0, 0.002))
        assert_consistent(run)
        checkpoint = run.resume()
        epochs_done.append(EPOCHS if run.is_complete else checkpoint["epoch"] if checkpoint else 0)
        assert epochs_done[-1] >= lines - 1
    assert epochs_done == sorted(epochs_done)
    if not run.is_complete:
        nursery.write(run)
    assert_complete(run)
