"""Every study, and its experiments by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from linear_backprop_lab.records import Run

from ._job import Job
from ._place import Place
from ._scale import Scale
from ._study import Experiment
from .bnn import STUDY as BNN
from .collapse import STUDY as COLLAPSE
from .figure1 import STUDY as FIGURE1
from .regularizer import STUDY as REGULARIZER
from .transfer import STUDY as TRANSFER
from .vgg import STUDY as VGG

STUDIES = (FIGURE1, VGG, BNN, COLLAPSE, REGULARIZER, TRANSFER)
"""In the order they are run, and shown in the report."""

EXPERIMENTS = tuple(experiment for study in STUDIES for experiment in study.experiments)
EVERYTHING = "all"


class UnknownExperimentError(ValueError):
    """A name that no experiment has; the message lists those there are."""


def experiment_names() -> list[str]:
    """Every name `experiments_named` takes."""
    return [name for e in EXPERIMENTS for name in (e.name, *e.views)] + [EVERYTHING]


def experiments_named(names: Iterable[str]) -> list[Experiment]:
    """The experiments behind the names, and those they need, each once, in the order of the registry.

    No name stands for those that are run by default, "all" for every one that is not `by_name_only`.

    Raises:
        UnknownExperimentError: A name is not known.
    """
    asked = set(names) or {experiment.name for experiment in EXPERIMENTS if experiment.by_default}
    unknown = sorted(asked.difference(experiment_names()))
    if unknown:
        raise UnknownExperimentError(
            f"no experiment is named {', '.join(map(repr, unknown))}; use {', '.join(experiment_names())}"
        )
    if EVERYTHING in asked:
        asked |= {experiment.name for experiment in EXPERIMENTS if not experiment.by_name_only}
    chosen = [e for e in EXPERIMENTS if asked.intersection((e.name, *e.views))]
    needed = {name for experiment in chosen for name in experiment.needs}
    return [e for e in EXPERIMENTS if e in chosen or e.name in needed]


def jobs_of(experiments: Iterable[Experiment], place: Place, scale: Scale) -> list[Job]:
    """The runs of several experiments that can be named now, in their order; one that they share is there once."""
    jobs = [job for experiment in experiments for job in experiment.jobs(place, scale)]
    return list({job.run.folder: job for job in jobs}.values())


def stages_of(experiments: Sequence[Experiment], place: Place, scale: Scale) -> Iterator[list[Job]]:
    """The runs of several experiments, a stage at a time: the next has what follows from the records of those before.

    Each run is in one stage. To be iterated while making the runs.
    """
    named: set[Path] = set()
    while stage := [job for job in jobs_of(experiments, place, scale) if job.run.folder not in named]:
        named.update(job.run.folder for job in stage)
        yield stage


def awaited(experiments: Iterable[Experiment], place: Place, scale: Scale) -> int:
    """How many runs the experiments cannot name yet, at most."""
    return sum(each.awaited(place, scale) for each in experiments)


def job_for(config: Mapping[str, Any], place: Place) -> Job:
    """The job that makes the run of a configuration: the same in every process.

    Args:
        config: `job.run.config` of a job, or the `config.json` of a record.
        place: Where it is made.

    Raises:
        UnknownExperimentError: No experiment makes records of this kind.
    """
    makers = {experiment.records or experiment.name: experiment.job for experiment in EXPERIMENTS}
    if (kind := config["experiment"]) not in makers:
        raise UnknownExperimentError(f"no experiment makes records of {kind!r}; those made are of {', '.join(makers)}")
    return makers[kind](Run(place.root, config), place)
