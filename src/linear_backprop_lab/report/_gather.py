"""From the folder of records to what a report shows; nothing is run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from linear_backprop_lab.records import Run, runs_below

from ._claims import Claim
from ._collapse import collapse
from ._figure1 import figure1
from ._images import images
from ._section import Section

# In the order of the report; the keys are `config["experiment"]` of the records.
_SECTIONS: dict[str, Callable[[Sequence[Run]], Section]] = {"fig1": figure1, "images": images, "collapse": collapse}
# Records that are shown in the section of another experiment.
_SHOWN_WITH = {"collapse-timing": "collapse"}

_HARDWARE = {
    "processor": "processor",
    "cores": "cores",
    "threads": "threads of PyTorch",
    "device": "device",
    "platform": "platform",
    "python": "Python",
    "torch": "PyTorch",
    "linear_backprop": "linear-backprop",
    "commit": "commit",
}


class ReportError(ValueError):
    """There is nothing to report, or no such kind of report; says what to do."""


@dataclass(frozen=True)
class Chapter:
    """One experiment: its section, and the runs it was made from."""

    section: Section
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Report:
    """Everything a report shows, before it is drawn on a page.

    Attributes:
        chapters: The experiments that have complete runs, at least one.
        environment: Where the runs were made, as (what, value) pairs; several values where runs differ.
    """

    chapters: tuple[Chapter, ...]
    environment: tuple[tuple[str, str], ...]

    @property
    def claims(self) -> list[tuple[Section, Claim]]:
        """Every claim and the section it stands in."""
        return [(chapter.section, claim) for chapter in self.chapters for claim in chapter.section.claims]


def gather(root: Path) -> Report:
    """The report on every complete run below `root`.

    Raises:
        ReportError: There is none.
        RunError: A record cannot be read.
    """
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in runs_below(root):
        name: str = run.config["experiment"]
        runs[_SHOWN_WITH.get(name, name)].append(run)
    chapters = tuple(Chapter(draw(runs[name]), tuple(runs[name])) for name, draw in _SECTIONS.items() if runs[name])
    if not chapters:
        raise ReportError(f"no complete run lies below {root}; make some with: linear-backprop reproduce")
    return Report(chapters, _environment([run for chapter in chapters for run in chapter.runs]))


def _environment(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    environments = [run.environment for run in runs]
    values = {key: dict.fromkeys(str(each[key]) for each in environments) for key in _HARDWARE}
    return tuple((name, ", ".join(values[key])) for key, name in _HARDWARE.items())
