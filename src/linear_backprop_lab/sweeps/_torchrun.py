"""Under torchrun: each run by all processes together. The first leads, the others follow it."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from linear_backprop_lab.studies import Job, OnStep
from linear_backprop_lab.training import together

from ._attempt import attempt
from ._errors import EngineError
from ._local import Tell

# How long one may wait for the others: as long as a run that the first makes alone.
_PATIENCE = timedelta(days=2)


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def follows() -> bool:
    """Whether this process is one of those that follow."""
    return under_torchrun() and os.environ["RANK"] != "0"


def follow() -> None:
    """Take part in every run that the first process begins, until it ends."""
    with _process_group():
        while (job := _broadcast(None)) is not None:
            with together():
                job.perform(lambda step: None)


@contextmanager
def leading() -> Generator[None]:
    """Let the others follow meanwhile, where torchrun started any.

    After an error they are not told of the end: torchrun ends them when this process has ended.
    """
    if not under_torchrun():
        yield
        return
    with _process_group():
        yield
        _broadcast(None)


def run_together(jobs: Sequence[Job], tell: Tell) -> None:
    """Make the runs one after another, each by all processes; those that cannot be shared by this one alone.

    Raises:
        EngineError: A shared run failed: the processes are out of step.
    """
    for index, job in enumerate(jobs):
        led = replace(job, perform=partial(_lead, job)) if job.shared else job
        outcome = attempt(led, lambda step, index=index: tell(index, step))
        tell(index, outcome)
        if outcome.state == "failed" and job.shared:
            raise EngineError(f"{job.label} failed ({outcome.error}); torchrun ends the other processes: run it again")


def _lead(job: Job, on_step: OnStep) -> None:
    _broadcast(job)
    with together():
        job.perform(on_step)


def _broadcast(job: Job | None) -> Job | None:
    """The first process's job; None is the end."""
    jobs = [job]
    dist.broadcast_object_list(jobs, src=0)
    return jobs[0]


@contextmanager
def _process_group() -> Generator[None]:
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
