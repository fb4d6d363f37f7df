"""What can be reproduced, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from linear_backprop_lab.data import load_images

from . import _figure1, _images
from ._job import Job

EVERYTHING = "all"


class UnknownExperimentError(ValueError):
    """A name that no experiment has; the message lists those there are."""


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        name: As on the command line, and as `config["experiment"]` in its records.
        summary: What it does, in a line.
        views: Further names: parts of its figure, which are made of the same runs.
        jobs: Its runs, from the folder all records lie in, the folder of CIFAR-10 (None: look for it)
            and whether it may be downloaded.
    """

    name: str
    summary: str
    views: tuple[str, ...]
    jobs: Callable[[Path, Path | None, bool], list[Job]]


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
)


def experiment_names() -> list[str]:
    """Every name `experiments_named` takes."""
    return [name for e in EXPERIMENTS for name in (e.name, *e.views)] + [EVERYTHING]


def experiments_named(names: Iterable[str]) -> list[Experiment]:
    """The experiments behind the names, each once, in the order of the registry; all of them for none.

    Raises:
        UnknownExperimentError: A name is not known.
    """
    asked = set(names) or {EVERYTHING}
    unknown = sorted(asked.difference(experiment_names()))
    if unknown:
        raise UnknownExperimentError(
            f"no experiment is named {', '.join(map(repr, unknown))}; use {', '.join(experiment_names())}"
        )
    return [e for e in EXPERIMENTS if EVERYTHING in asked or asked.intersection((e.name, *e.views))]
