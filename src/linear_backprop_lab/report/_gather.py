"""From the folder of records to what a report shows; nothing is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linear_backprop_lab.records import Run, runs_below

from ._bnn import bnn
from ._claims import Claim
from ._collapse import collapse
from ._figure1 import figure1
from ._figure2 import figure2
from ._figure3 import figure3_left, figure3_right
from ._figure4 import figure4
from ._image_runs import BACKPROP, LINEAR
from ._images import images
from ._open_settings import open_settings
from ._paper_rate import paper_rate
from ._section import Section


@dataclass(frozen=True)
class _Kind:
    """One kind of section: which runs it is drawn from, and how.

    Attributes:
        draw: From those runs, at least one, to the section.
        experiments: `config["experiment"]` of its records.
        networks: The activations and rules among them, as (activation, rule) pairs; None for all there are.
        also: Another experiment, whose records are shown with them, where there are any of its own.
    """

    draw: Callable[[Sequence[Run]], Section]
    experiments: tuple[str, ...]
    networks: tuple[tuple[str, str], ...] | None = None
    also: str | None = None

    def of(self, runs: Sequence[Run]) -> tuple[Run, ...]:
        """Those that the section is drawn from; none where it has none of its own."""
        taken = tuple(run for run in runs if self._takes(run.config))
        return taken if any(run.config["experiment"] in self.experiments for run in taken) else ()

    def _takes(self, config: Mapping[str, Any]) -> bool:
        if config["experiment"] not in (*self.experiments, self.also):
            return False
        return self.networks is None or (config["model"]["activation"], config["rule"]) in self.networks


_TANH = (("Tanh", BACKPROP), ("Tanh", LINEAR))

# In the order of the report.
_KINDS = (
    _Kind(figure1, ("fig1",)),
    _Kind(images, ("images",)),
    _Kind(figure2, ("vgg19",), _TANH),
    _Kind(figure3_left, ("vgg19",), (("ReLU", BACKPROP), ("Tanh", LINEAR))),
    _Kind(figure3_right, ("vgg19",), (("ReLU", BACKPROP), ("ReLU", LINEAR))),
    _Kind(figure4, ("vgg19",), _TANH),
    _Kind(open_settings, ("open-settings",), _TANH, also="vgg19"),
    _Kind(paper_rate, ("paper-rate",)),
    _Kind(bnn, ("bnn",)),
    _Kind(collapse, ("collapse", "collapse-timing")),
)

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
    runs = list(runs_below(root))
    chapters = tuple(Chapter(kind.draw(taken), taken) for kind in _KINDS if (taken := kind.of(runs)))
    if not chapters:
        raise ReportError(f"no complete run lies below {root}; make some with: linear-backprop reproduce")
    return Report(chapters, _environment([run for chapter in chapters for run in chapter.runs]))


def _environment(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    environments = [run.environment for run in runs]
    values = {key: dict.fromkeys(str(each[key]) for each in environments) for key in _HARDWARE}
    return tuple((name, ", ".join(values[key])) for key, name in _HARDWARE.items())
