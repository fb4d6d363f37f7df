"""A whole sweep is killed (SIGKILL) at random moments, again and again, and ends as if it never had been."""

import os
import random
import time
from functools import partial
from pathlib import Path

import pytest
from lab.nursery import nursery_of
from lab.sweeps.tiny import EPOCHS, make, tiny_job, without_time

from linear_backprop_lab.records import Run, damage, is_locked, listing

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX")

KILLS, RUNS = 20, 6


def epochs_done(run: Run) -> int:
    checkpoint = run.resume()
    return EPOCHS if run.is_complete else 0 if checkpoint is None else checkpoint["epoch"]


def test_killed_twenty_times_a_sweep_ends_as_if_undisturbed(tmp_path: Path) -> None:
    moments = random.Random(0)
    jobs = [tiny_job(tmp_path / "killed", seed) for seed in range(RUNS)]
    done = [0] * RUNS
    interrupted = 0
    with nursery_of("lab.sweeps.tiny:sweep") as nursery:
        for _ in range(KILLS):
            # Each gets an epoch or so further, so that the kills are spread over the whole sweep.
            goal = min(total_lines(jobs) + moments.randint(0, 2), RUNS * EPOCHS)
            reached = partial(lines_reach, jobs, goal)
            nursery.kill(tmp_path / "killed", RUNS, when=reached, delay=moments.uniform(0, 0.02))
            for job, epochs in zip(jobs, done, strict=True):
                assert damage(job.run) is None and is_given_back(job.run)
                # Nothing that was done before is lost, and of this attempt the epoch under way at most.
                assert epochs_done(job.run) >= max(epochs, len(job.run.metrics) - 1)
            done = [epochs_done(job.run) for job in jobs]
            interrupted += any(0 < epochs < EPOCHS for epochs in done)
        # Otherwise the kills came too early or too late to show anything.
        assert interrupted >= KILLS // 2
        assert nursery.finish(tmp_path / "killed", RUNS) == 0
    for seed, job in enumerate(jobs):
        assert job.run.is_complete and damage(job.run) is None
        undisturbed = tiny_job(tmp_path / "undisturbed", seed)
        make(undisturbed)
        assert without_time(job.run) == without_time(undisturbed.run)
        assert job.run.record | {"seconds": 0} == undisturbed.run.record | {"seconds": 0}
    assert {listed.state for listed in listing(tmp_path / "killed")} == {"complete"}
    assert not list((tmp_path / "killed").rglob("*.broken-*")) and not list((tmp_path / "killed").rglob("*.pt"))


def is_given_back(run: Run) -> bool:
    """Whether nobody holds the run's lock; a child of the killed process, such as git, may do so until it has begun."""
    deadline = time.monotonic() + 10
    while is_locked(run) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_locked(run)


def total_lines(jobs) -> int:
    paths = [job.run.folder / "metrics.jsonl" for job in jobs]
    return sum(path.read_bytes().count(b"\n") for path in paths if path.exists())


def lines_reach(jobs, goal: int) -> bool:
    return total_lines(jobs) >= goal


def test_two_sweeps_at_once_make_each_run_once(tmp_path: Path) -> None:
    with nursery_of("lab.sweeps.tiny:sweep") as one, nursery_of("lab.sweeps.tiny:sweep") as other:
        for nursery in (one, other):
            nursery.begin(tmp_path, RUNS, "counted")
        assert one.end() == other.end() == 0
    keys = sorted(tiny_job(tmp_path, seed, "counted").run.key for seed in range(RUNS))
    assert sorted((tmp_path / "made.txt").read_text().split()) == keys
    assert {listed.state for listed in listing(tmp_path)} == {"complete"}
