"""A study: the experiments that make its records, and the sections of the report drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Section

from ._job import Job
from ._place import Place
from ._scale import Scale

Config = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The runs of an experiment, as far as they can be named now.

    Attributes:
        configs: Their configurations. What follows from the records of others (further seeds of the best setting, say)
            is there once those are complete.
        awaited: How many runs cannot be named yet, at most.
    """

    configs: Sequence[Config]
    awaited: int = 0


@dataclass(frozen=True)
class Experiment:
    """One experiment: runs that are made by one name.

    Attributes:
        name: As on the command line.
        summary: What it does, in a line.
        plan: Its runs at a scale; it gets the images' numbers and names alone, see `Place.outlined`.
        job: What makes one of them in any process, from its configuration alone.
        records: `config["experiment"]` of its records, which experiments may share; its name unless given.
        views: Further names: parts of its figure, which are made of the same runs.
        needs: Names of experiments that are run before it, since it uses what they leave.
        on_images: Whether it is on CIFAR-10, or digits in its place.
        by_default: Whether it is run where no name is given.
        by_name_only: Whether "all" leaves it out: it wants the machine to itself.
    """

    name: str
    summary: str
    plan: Callable[[Place, Scale], Plan]
    job: Callable[[Run, Place], Job]
    records: str = ""
    views: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    on_images: bool = True
    by_default: bool = False
    by_name_only: bool = False

    def jobs(self, place: Place, scale: Scale) -> list[Job]:
        """Its runs that can be named now."""
        return [self.job(Run(place.root, config), place) for config in self.plan(place.outlined, scale).configs]

    def awaited(self, place: Place, scale: Scale) -> int:
        """How many of its runs cannot be named yet, at most."""
        return self.plan(place.outlined, scale).awaited


@dataclass(frozen=True)
class Drawn:
    """One section of the report: which runs it is drawn from, and how.

    Attributes:
        name: The `id` of the section.
        draw: From those runs, at least one a side, to the section.
        experiments: `config["experiment"]` of its records.
        sides: What it compares; those of the records that it takes are on one of them.
        also: Another experiment, whose records are shown with them, where there are any of its own.
        unfinished: Whether runs that have not ended yet are shown, too.
    """

    name: str
    draw: Callable[[Sequence[Run]], Section]
    experiments: tuple[str, ...]
    sides: tuple[Callable[[Run], bool], ...] = (lambda run: True,)
    also: str | None = None
    unfinished: bool = False

    def of(self, complete: Sequence[Run], unfinished: Sequence[Run] = ()) -> tuple[Run, ...]:
        """Those that the section is drawn from; none where it has none of its own, or a side has none."""
        runs = [*complete, *unfinished] if self.unfinished else complete
        named = (*self.experiments, self.also)
        of_these = [run for run in runs if run.config["experiment"] in named]
        taken = tuple(run for run in of_these if any(side(run) for side in self.sides))
        return taken if self.own(taken) and all(any(map(side, taken)) for side in self.sides) else ()

    def own(self, runs: Sequence[Run]) -> tuple[Run, ...]:
        """Those of its own experiments, which it is about."""
        return tuple(run for run in runs if run.config["experiment"] in self.experiments)


@dataclass(frozen=True)
class Study:
    """One question, from its runs to its sections.

    Attributes:
        experiments: In the order they are run.
        sections: In the order they are shown.
    """

    experiments: tuple[Experiment, ...]
    sections: tuple[Drawn, ...]
