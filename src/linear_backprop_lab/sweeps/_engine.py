"""Which engine makes the runs of a sweep, from what the command line says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial

from linear_backprop_lab.studies import Job

from ._attempt import Outcome
from ._local import run_locally
from ._ray import run_on_ray
from ._torchrun import run_together, under_torchrun

Engine = Callable[[Sequence[Job], Callable[[int, int | Outcome], object]], None]
"""Makes each run of a list, or finds that another process does, and tells of it: with a job's index, the
steps it has done, then how it ended. A run that fails does not stop it."""


class EngineName(StrEnum):
    """The engines there are."""

    LOCAL = "local"
    RAY = "ray"


def choose_engine(
    name: EngineName, workers: int | None = None, address: str | None = None, gpus_per_run: float | None = None
) -> Engine:
    """The engine of that name; where an option is None, it decides. Under torchrun, all processes together.

    Raises:
        ValueError: An option is given that belongs to the other engine.
    """
    if under_torchrun():
        if name is EngineName.RAY or workers is not None:
            raise ValueError("under torchrun its processes make each run together; leave out --engine and --workers")
        return run_together
    if name is EngineName.RAY:
        if workers is not None:
            raise ValueError("--workers is of the local engine; Ray starts as many runs as its cluster has room for")
        return partial(run_on_ray, address=address, gpus_per_run=gpus_per_run)
    if address is not None or gpus_per_run is not None:
        raise ValueError("--address and --gpus-per-run are of Ray; give --engine ray, too")
    return partial(run_locally, workers=workers)
