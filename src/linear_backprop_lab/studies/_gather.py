"""From the folder of records to what a report shows; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from linear_backprop_lab.records import Run, read
from linear_backprop_lab.report import Chapter, Report, ReportError

from ._badges import with_badges
from ._place import Place
from ._registry import STUDIES, job_for

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
    found, place = read(root), Place(root)
    wrong = {run.folder: why for run in (*found.complete, *found.unfinished) if (why := _unknown(run, place))}
    complete, unfinished = (
        [run for run in runs if run.folder not in wrong] for runs in (found.complete, found.unfinished)
    )
    chapters: list[Chapter] = []
    not_drawn: list[tuple[str, str]] = []
    for kind in (kind for study in STUDIES for kind in study.sections):
        try:
            if taken := kind.of(complete, unfinished):
                chapters.append(Chapter(with_badges(kind.draw(taken), kind.own(taken)), taken))
        except Exception as error:  # Records may be of any version, and others are to be seen all the same.
            not_drawn.append((kind.name, _reason(error)))
    if not (chapters or not_drawn or complete):
        raise ReportError(f"no complete run lies below {root}; make some with: linear-backprop reproduce")
    left_out = tuple(
        (folder.relative_to(root).as_posix(), why) for folder, why in sorted([*found.left_out, *wrong.items()])
    )
    shown = [run for chapter in chapters for run in chapter.runs]
    return Report(tuple(chapters), _environment(shown or complete), left_out, tuple(not_drawn))


def _unknown(run: Run, place: Place) -> str | None:
    """Why the run is none of this version's; None where it is: a setting that nobody knows may be one that matters."""
    try:
        job_for(run.config, place)
    except Exception as error:
        return f"its configuration is of another version: {_reason(error)}"
    return None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ReportError) else f"{type(error).__name__}: {error}"


def _environment(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    environments = [run.environment for run in runs]
    values = {key: dict.fromkeys(str(each.get(key, "not recorded")) for each in environments) for key in _HARDWARE}
    return tuple((name, ", ".join(values[key])) for key, name in _HARDWARE.items())
