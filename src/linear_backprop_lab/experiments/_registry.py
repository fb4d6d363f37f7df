"""What can be reproduced, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from linear_backprop_lab.data import load_images

from . import _collapse, _collapse_timing, _figure1, _images
from ._job import Job

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
        jobs: Its runs, from the folder all records lie in, the folder of CIFAR-10 (None: look for it)
            and whether it may be downloaded.
        by_name_only: Whether "all" leaves it out: it takes long, or needs what another experiment made.
    """

    name: str
    summary: str
    views: tuple[str, ...]
    jobs: Callable[[Path, Path | None, bool], list[Job]]
    by_name_only: bool = False


EXPERIMENTS = (
    Experiment(
        name=_figure1.NAME,
        summary="50 small MLPs a rule fit five points of a cubic: fit, generalisation, unit activations",
        views=_figure1.VIEWS,
        jobs=lambda root, data, download: _figure1.figure1_jobs(root),
    ),
    Experiment(
        name=_images.NAME,
        summary="a narrow VGG19 with tanh on a part of CIFAR-10, Backprop against Linear Backprop",
        views=(),
        jobs=lambda root, data, download: _images.images_jobs(root, load_images(data, download=download)),
    ),
    Experiment(
        name="collapse-sweep",
        summary="the collapsed passes and Backprop at several learning rates, tested on held-out images",
        views=(),
        jobs=lambda root, data, download: _collapse.sweep_jobs(root, load_images(data, download=download)),
        by_name_only=True,
    ),
    Experiment(
        name=_collapse.NAME,
        summary="the same, each at the learning rate that was best in collapse-sweep, several seeds; run after it",
        views=(),
        jobs=lambda root, data, download: _collapse.collapse_jobs(root, load_images(data, download=download)),
        by_name_only=True,
    ),
    Experiment(
        name="collapse-timing",
        summary="what a training step costs under each of them; run alone on the machine",
        views=(),
        jobs=lambda root, data, download: _collapse_timing.timing_jobs(root),
        by_name_only=True,
    ),
)


def experiment_names() -> list[str]:
    """Every name `experiments_named` takes."""
    return [name for e in EXPERIMENTS for name in (e.name, *e.views)] + [EVERYTHING]


def experiments_named(names: Iterable[str]) -> list[Experiment]:
    """The experiments behind the names, each once, in the order of the registry.

    No name, or "all", stands for every experiment that is not `by_name_only`.

    Raises:
        UnknownExperimentError: A name is not known.
    """
    asked = set(names) or {EVERYTHING}
    unknown = sorted(asked.difference(experiment_names()))
    if unknown:
        raise UnknownExperimentError(
            f"no experiment is named {', '.join(map(repr, unknown))}; use {', '.join(experiment_names())}"
        )
    return [
        e for e in EXPERIMENTS if asked.intersection((e.name, *e.views)) or (EVERYTHING in asked and not e.by_name_only)
    ]
