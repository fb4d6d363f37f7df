"""One attempt at one run: what every engine does with a job, wherever it does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from linear_backprop_lab.records import BusyError, Run, RunError, damage, lock, set_aside
from linear_backprop_lab.studies import Job, OnStep


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        state: `done`: the run is complete, by this attempt or before it; `busy`: another process makes
            it; `failed`: an error ended it, and the next attempt goes on from its last checkpoint.
        error: What failed, in a line.
        set_aside: What was wrong with the record found, and where it lies now; empty where nothing was.
    """

    state: Literal["done", "busy", "failed"]
    error: str = ""
    set_aside: str = ""


def attempt(job: Job, on_step: OnStep) -> Outcome:
    """Make the run of `job` unless another process does; its errors are recorded, not raised.

    A damaged record is set aside first and the run made anew.
    """
    try:
        with lock(job.run):
            return _attempt_alone(job, on_step)
    except BusyError:
        return Outcome("busy")
    except RunError as error:
        return Outcome("failed", str(error))


def _attempt_alone(job: Job, on_step: OnStep) -> Outcome:
    said = ""
    wrong = damage(job.run)
    if wrong is not None:
        said = f"{wrong}; set aside as {set_aside(job.run).name}"
    elif job.run.is_complete:
        return Outcome("done")
    try:
        job.run.forget_failure()
        job.perform(on_step)
    except Exception as error:
        record_failure(job.run, error)
        return Outcome("failed", summary(error), said)
    return Outcome("done", set_aside=said)


def record_failure(run: Run, error: BaseException | str) -> None:
    """Write why the attempt failed into the run's folder, unless that fails, too: the disk may be full."""
    try:
        run.fail(error)
    except (OSError, RunError):
        return


def summary(error: BaseException) -> str:
    """The kind of the error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}".removesuffix(": ")
