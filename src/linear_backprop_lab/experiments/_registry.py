"""What can be reproduced, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _bnn, _collapse, _collapse_timing, _figure1, _images, _vgg
from ._image_run import image_job
from ._job import Job
from ._scale import Scale

EVERYTHING = "all"


class UnknownExperimentError(ValueError):
    """A name that no experiment has; the message lists those there are."""


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        name: As on the command line.
        summary: What it does, in a line.
        views: Further names: parts of its figure, which are made of the same runs.
        records: `config["experiment"]` of the records that `job` makes, which experiments may share.
        jobs: Its runs, from the folder all records lie in, the scale, the folder of CIFAR-10 (None: look for
            it) and whether it may be downloaded.
            What follows from the records of others (further seeds of the best setting, say) is there once those
            are complete.
        job: A run of `records` from its configuration, in any process; the other arguments are those of `jobs`.
        awaited: How many runs `jobs` cannot name yet, at most, from the same arguments; None where it always names all.
        by_default: Whether it is run where no name is given.
        by_name_only: Whether "all" leaves it out: it wants the machine to itself.
    """

    name: str
    summary: str
    views: tuple[str, ...]
    records: str
    jobs: Callable[[Path, Scale, Path | None, bool], list[Job]]
    job: Callable[[Path, Mapping[str, Any], Path | None, bool], Job]
    awaited: Callable[[Path, Scale, Path | None, bool], int] | None = None
    by_default: bool = False
    by_name_only: bool = False


EXPERIMENTS = (
    Experiment(
        name=_figure1.NAME,
        summary="50 small MLPs a rule fit five points of a cubic: fit, generalisation, unit activations",
        views=_figure1.VIEWS,
        records=_figure1.NAME,
        jobs=_figure1.figure1_jobs_at,
        job=lambda root, config, data, download: _figure1.figure1_job(root, config),
        by_default=True,
    ),
    Experiment(
        name=_images.NAME,
        summary="a narrow VGG19 with tanh on a part of CIFAR-10, Backprop against Linear Backprop",
        views=(),
        records=_images.NAME,
        jobs=_images.images_jobs,
        job=image_job,
        by_default=True,
    ),
    Experiment(
        name="fig2",
        summary="VGG19 with tanh, each rule at the best of the sweep of fig4, with several seeds",
        views=(),
        records=_vgg.RECORDS,
        jobs=_vgg.figure2_jobs,
        job=image_job,
        awaited=_vgg.figure2_awaited,
    ),
    Experiment(
        name="fig3-left",
        summary="VGG19, ReLU with Backprop against tanh with Linear Backprop, swept, then for long with several seeds",
        views=(),
        records=_vgg.RECORDS,
        jobs=_vgg.figure3_left_jobs,
        job=image_job,
        awaited=_vgg.figure3_left_awaited,
    ),
    Experiment(
        name="fig3-right",
        summary="VGG19, ReLU under both rules, swept, then with several seeds",
        views=(),
        records=_vgg.RECORDS,
        jobs=_vgg.figure3_right_jobs,
        job=image_job,
        awaited=_vgg.figure3_right_awaited,
    ),
    Experiment(
        name="fig4",
        summary="VGG19 with tanh, the whole sweep of learning rates and l2 penalties under both rules",
        views=(),
        records=_vgg.RECORDS,
        jobs=_vgg.figure4_jobs,
        job=image_job,
    ),
    Experiment(
        name=_vgg.OPEN_SETTINGS,
        summary="fig4's sweep with other initializations, and without augmentation: the paper does not say",
        views=(),
        records=_vgg.OPEN_SETTINGS,
        jobs=_vgg.open_settings_jobs,
        job=image_job,
    ),
    Experiment(
        name=_vgg.PAPER_RATE,
        summary="VGG19 with tanh at the paper's learning rate, 0.001, for longer than fig4 takes at a small scale",
        views=(),
        records=_vgg.PAPER_RATE,
        jobs=_vgg.paper_rate_jobs,
        job=image_job,
        awaited=_vgg.paper_rate_awaited,
    ),
    Experiment(
        name=_bnn.NAME,
        summary="binarized ResNet-18 with hard tanh, the sweep under both rules: the paper's Precision@5 errors",
        views=(),
        records=_bnn.NAME,
        jobs=_bnn.bnn_jobs,
        job=image_job,
        awaited=_bnn.bnn_awaited,
    ),
    Experiment(
        name=_collapse.NAME,
        summary="collapsed passes against Backprop on MLPs and convnets, swept, then at the best with several seeds",
        views=(),
        records=_collapse.NAME,
        jobs=_collapse.collapse_jobs,
        job=_collapse.collapse_job,
        awaited=_collapse.collapse_awaited,
    ),
    Experiment(
        name=_collapse_timing.NAME,
        summary="what their training steps cost, in turns in one process; for a machine that does nothing else",
        views=(),
        records=_collapse_timing.NAME,
        jobs=_collapse_timing.timing_jobs,
        job=lambda root, config, data, download: _collapse_timing.timing_job(root, config),
        by_name_only=True,
    ),
)


def experiment_names() -> list[str]:
    """Every name `experiments_named` takes."""
    return [name for e in EXPERIMENTS for name in (e.name, *e.views)] + [EVERYTHING]


def experiments_named(names: Iterable[str]) -> list[Experiment]:
    """The experiments behind the names, each once, in the order of the registry.

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
    return [e for e in EXPERIMENTS if asked.intersection((e.name, *e.views))]


def jobs_of(
    experiments: Iterable[Experiment], root: Path, scale: Scale, data: Path | None, download: bool
) -> list[Job]:
    """The runs of several experiments that can be named now, in their order; one that they share is there once."""
    jobs = [job for experiment in experiments for job in experiment.jobs(root, scale, data, download)]
    return list({job.run.folder: job for job in jobs}.values())


def stages_of(
    experiments: Sequence[Experiment], root: Path, scale: Scale, data: Path | None, download: bool
) -> Iterator[list[Job]]:
    """The runs of several experiments, a stage at a time: the next has what follows from the records of those before.

    Each run is in one stage. To be iterated while making the runs.
    """
    named: set[Path] = set()
    while stage := [job for job in jobs_of(experiments, root, scale, data, download) if job.run.folder not in named]:
        named.update(job.run.folder for job in stage)
        yield stage


def awaited(experiments: Iterable[Experiment], root: Path, scale: Scale, data: Path | None, download: bool) -> int:
    """How many runs the experiments cannot name yet, at most."""
    return sum(each.awaited(root, scale, data, download) for each in experiments if each.awaited is not None)


def job_for(root: Path, config: Mapping[str, Any], data: Path | None, download: bool) -> Job:
    """The job that makes the run of a configuration: the same in every process.

    Args:
        root: The folder all records lie in.
        config: `job.run.config` of a job, or the `config.json` of a record.
        data: The folder of CIFAR-10; None to look for it.
        download: Whether it may be downloaded.

    Raises:
        UnknownExperimentError: No experiment makes records of this kind.
    """
    for experiment in EXPERIMENTS:
        if experiment.records == config["experiment"]:
            return experiment.job(root, config, data, download)
    known = ", ".join(dict.fromkeys(experiment.records for experiment in EXPERIMENTS))
    raise UnknownExperimentError(f"no experiment makes records of {config['experiment']!r}; those made are of {known}")
