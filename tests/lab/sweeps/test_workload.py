"""How long runs should take: their steps, and what they take beside them, which is most of it where they are small."""

import os
import re

import pytest
from lab.made_up import image_config

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Job
from linear_backprop_lab.sweeps import Sweep, _local, workload


def said(tmp_path, count, seconds, workers=None):
    """The number and the unit of the estimate for `count` runs of so many seconds each."""
    runs = [Run(tmp_path, image_config("Exact()") | {"number": number}) for number in range(count)]
    text = workload(
        Sweep.of([Job(run, "a run", 1, lambda on_step: None, estimate=lambda: seconds) for run in runs]),
        workers=workers,
    )
    found = re.fullmatch(
        rf"{count} runs, 0 of them complete; about (\S+) (s|minutes|hours) at most for the rest of these", text
    )
    assert found is not None, text
    return float(found[1]), found[2]


def test_runs_that_take_no_time_take_that_of_starting(tmp_path):
    """Loading PyTorch and the lab takes a second at the least, wherever."""
    cores = min(_local.cores(), 8)
    number, unit = said(tmp_path, 40, 0.0)
    assert unit == "s" and 40 * 0.4 / cores + 2 + 1 <= number <= 60


@pytest.mark.parametrize("cores, workers, minutes", [(2, None, 60), (2, 1, 120), (2, 16, 60), (64, None, 30)])
def test_long_runs_take_their_steps_and_go_side_by_side(tmp_path, monkeypatch, cores, workers, minutes):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    number, unit = said(tmp_path, 4, 1800.0, workers)
    assert number * (60 if unit == "hours" else 1) == pytest.approx(minutes, abs=1)


def test_a_damaged_record_is_not_complete(tmp_path):
    whole, damaged = runs = [Run(tmp_path, image_config("Exact()") | {"number": number}) for number in range(2)]
    for run in runs:
        run.start()
        run.close(status="complete")
    (damaged.folder / "record.json").write_text("")
    text = workload(Sweep.of([Job(run, "a run", 1, lambda on_step: None) for run in (whole, damaged)]))
    assert text == "2 runs, 1 of them complete"
