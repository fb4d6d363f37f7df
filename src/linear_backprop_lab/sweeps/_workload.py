"""What is ahead: how many runs, and how long they should take here."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from linear_backprop_lab.studies import Job

from ._local import cores, side_by_side
from ._sweep import Sweep

# What the estimates of jobs leave out, and what small runs consist of. A process that makes runs loads first what this
# one has loaded by now, and at its first run some more; each run reads its images, makes its network, writes its files.
_LOADING_SECONDS = time.process_time()
_FIRST_RUN_SECONDS = 2.0
_SECONDS_BESIDE_STEPS = 0.4


def workload(sweep: Sweep, awaited: int = 0, workers: int | None = None) -> str:
    """How many runs there are, how many are complete and whole, and how long the others should take, in a sentence.

    By timing a step of each distinct model on one thread, as if every run that goes on had a core of its own and no
    more; on a GPU, as if one run followed another; and by what starting processes and runs takes. Some runs stop
    early, so it is a bound rather than a forecast.

    Args:
        sweep: The runs, and which of them are there.
        awaited: How many more follow from their records, at most; they are not timed.
        workers: As `run_locally` takes them.
    """
    count, pending = len(sweep.jobs), sweep.pending
    parts = [f"{count} runs, {count - len(pending)} of them complete"]
    if awaited:
        parts.append(f"at most {awaited} more follow at the settings that turn out best")
    if (seconds := _seconds(pending, workers)) is not None:
        parts.append(f"about {_duration(seconds)} at most for the rest of these")
    return "; ".join(parts)


def _seconds(pending: Sequence[Job], workers: int | None) -> float | None:
    """How long they take; None where there is nothing to run, or a job cannot tell."""
    estimates = [job.estimate for job in pending if job.estimate is not None]
    if not pending or len(estimates) < len(pending):
        return None
    total = sum(estimate() + _SECONDS_BESIDE_STEPS for estimate in estimates)
    at_a_time = 1 if torch.cuda.is_available() else min(cores(), side_by_side(len(pending), workers))
    return _LOADING_SECONDS + _FIRST_RUN_SECONDS + total / at_a_time


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
