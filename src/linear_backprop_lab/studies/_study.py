"""A study: the experiments that make its records, and the sections of the report drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Section

from ._job import Job
from ._scale import Scale


@dataclass(frozen=True)
class Experiment:
    """One experiment: runs that are made by one name.

    Attributes:
        name: As on the command line.
        summary: What it does, in a line.
        records: `config["experiment"]` of the records that `job` makes, which experiments may share.
        jobs: Its runs, from the folder all records lie in, the scale, the folder of CIFAR-10 (None: look for
            it) and whether it may be downloaded.
            What follows from the records of others (further seeds of the best setting, say) is there once those
            are complete.
        job: A run of `records` from its configuration, in any process; the other arguments are those of `jobs`.
        views: Further names: parts of its figure, which are made of the same runs.
        awaited: How many runs `jobs` cannot name yet, at most, from the same arguments; None where it always names all.
        on_images: Whether it is on CIFAR-10, or digits in its place.
        by_default: Whether it is run where no name is given.
        by_name_only: Whether "all" leaves it out: it wants the machine to itself.
    """

    name: str
    summary: str
    records: str
    jobs: Callable[[Path, Scale, Path | None, bool], list[Job]]
    job: Callable[[Path, Mapping[str, Any], Path | None, bool], Job]
    views: tuple[str, ...] = ()
    awaited: Callable[[Path, Scale, Path | None, bool], int] | None = None
    on_images: bool = True
    by_default: bool = False
    by_name_only: bool = False


def every_run(run: Run) -> bool:
    """What a section is drawn from unless it says otherwise."""
    return True


@dataclass(frozen=True)
class Drawn:
    """One section of the report: which runs it is drawn from, and how.

    Attributes:
        draw: From those runs, at least one, to the section.
        experiments: `config["experiment"]` of its records.
        where: Those of them that it takes.
        also: Another experiment, whose records are shown with them, where there are any of its own.
        unfinished: Whether runs that have not ended yet are shown, too.
    """

    draw: Callable[[Sequence[Run]], Section]
    experiments: tuple[str, ...]
    where: Callable[[Run], bool] = every_run
    also: str | None = None
    unfinished: bool = False

    def of(self, complete: Sequence[Run], unfinished: Sequence[Run] = ()) -> tuple[Run, ...]:
        """Those that the section is drawn from; none where it has none of its own."""
        runs = [*complete, *unfinished] if self.unfinished else complete
        named = (*self.experiments, self.also)
        taken = tuple(run for run in runs if run.config["experiment"] in named and self.where(run))
        return taken if any(run.config["experiment"] in self.experiments for run in taken) else ()


@dataclass(frozen=True)
class Study:
    """One question, from its runs to its sections.

    Attributes:
        experiments: In the order they are run.
        sections: In the order they are shown.
    """

    experiments: tuple[Experiment, ...]
    sections: tuple[Drawn, ...]
