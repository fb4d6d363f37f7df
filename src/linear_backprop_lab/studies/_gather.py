"""From the folder of records to what a report shows; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linear_backprop_lab.records import Run, read
from linear_backprop_lab.report import Chapter, Report, ReportError

from ._badges import with_badges
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
    """The report on every run below `root` that can be read; each record is read once.

    Raises:
        ReportError: There is none.
    """
    found = read(root)
    kinds = [kind for study in STUDIES for kind in study.sections]
    chapters = tuple(
        Chapter(with_badges(kind.draw(taken), kind.own(taken)), taken)
        for kind in kinds
        if (taken := kind.of(found.complete, found.unfinished))
    )
    if not chapters:
        raise ReportError(f"no complete run lies below {root}; make some with: linear-backprop reproduce")
    left_out = tuple((folder.relative_to(root).as_posix(), wrong) for folder, wrong in found.left_out)
    return Report(chapters, _environment([run for chapter in chapters for run in chapter.runs]), left_out)


def _environment(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    environments = [run.environment for run in runs]
    values = {key: dict.fromkeys(str(each.get(key, "not recorded")) for each in environments) for key in _HARDWARE}
    return tuple((name, ", ".join(values[key])) for key, name in _HARDWARE.items())
