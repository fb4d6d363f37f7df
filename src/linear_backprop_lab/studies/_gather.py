"""From the folder of records to what a report shows; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linear_backprop_lab.records import Run, runs_below
from linear_backprop_lab.report import Chapter, Report, ReportError

from ._registry import STUDIES

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


def gather(root: Path) -> Report:
    """The report on every complete run below `root`.

    Raises:
        ReportError: There is none.
        RunError: A record cannot be read.
    """
    runs = list(runs_below(root))
    kinds = [kind for study in STUDIES for kind in study.sections]
    chapters = tuple(Chapter(kind.draw(taken), taken) for kind in kinds if (taken := kind.of(runs)))
    if not chapters:
        raise ReportError(f"no complete run lies below {root}; make some with: linear-backprop reproduce")
    return Report(chapters, _environment([run for chapter in chapters for run in chapter.runs]))


def _environment(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    environments = [run.environment for run in runs]
    values = {key: dict.fromkeys(str(each[key]) for each in environments) for key in _HARDWARE}
    return tuple((name, ", ".join(values[key])) for key, name in _HARDWARE.items())
