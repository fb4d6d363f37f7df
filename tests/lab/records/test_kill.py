"""A writing process is killed (SIGKILL) at many moments: at most the epoch under way is lost."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lab.nursery import Nursery, nursery_of
from lab.records.writer import EPOCHS, run_of

from linear_backprop_lab.records import Run, read

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX")

KILLS = 40


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with nursery_of("lab.records.writer:write") as nursery:
        yield nursery


def kill(nursery: Nursery, run: Run, lines: int, delay: float) -> None:
    """Kill a writer that many seconds after the metrics have that many lines."""
    root, seed = run.folder.parents[1], run.config["seed"]
    nursery.kill(root, seed, when=lambda: count_lines(run) >= lines, delay=delay)


def count_lines(run: Run) -> int:
    path = run.folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


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
        kill(nursery, run, lines=moments.randint(0, EPOCHS), delay=moments.uniform(0, 0.02))
        assert_consistent(run)
    # Otherwise the kills came too early or too late to show anything.
    assert sum(run.resume() is not None for run in runs) >= KILLS // 4
    complete = [run for run in runs if run.is_complete]
    assert {run.folder for run in read(tmp_path).complete} == {run.folder for run in complete}
    for run in complete:
        assert_complete(run)


def test_killed_again_and_again_it_still_arrives(nursery: Nursery, tmp_path: Path) -> None:
    moments = random.Random(1)
    run = run_of(tmp_path, seed=0)
    epochs_done = []
    for lines in range(0, EPOCHS - 2, 2):
        kill(nursery, run, lines, delay=moments.uniform(0, 0.002))
        assert_consistent(run)
        checkpoint = run.resume()
        epochs_done.append(EPOCHS if run.is_complete else checkpoint["epoch"] if checkpoint else 0)
        assert epochs_done[-1] >= lines - 1
    assert epochs_done == sorted(epochs_done)
    if not run.is_complete:
        assert nursery.finish(tmp_path, 0) == 0
    assert_complete(run)
