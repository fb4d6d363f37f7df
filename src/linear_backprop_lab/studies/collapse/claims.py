"""What is claimed of the collapsed passes' learning, and the verdict the records give."""

from __future__ import annotations

import math
from collections.abc import Sequence

from linear_backprop_lab.report import Claim, all_or_some

from .table import Study, Trained, family, method_name

_FAST = 1.4
NEARLY = 0.9
_NOT_THE_PAPERS = "not in the paper; this project's own target"
_HOW_LEVEL = (
    "holds where its mean test accuracy is not below Backprop's by more than one standard error of the difference "
    "(both standard errors over seeds, added in squares) on every model; partly where on some"
)
_CLAIMS = {
    "linear": "Linear Backprop, collapsed, reaches Backprop's accuracy.",
    "local-linear": "LocallyExact(Linear), collapsed, reaches Backprop's accuracy.",
    "local-mean": "LocallyExact(MeanLinear), collapsed, reaches Backprop's accuracy.",
    "above": "Exact up to a layer and Linear above it, a network reaches Backprop's accuracy, whatever the layer.",
}
_PAPER = {"linear": "“learning with Linear Backprop is competitive with Backprop” (abstract)"}


def verdicts(table: Sequence[Study]) -> tuple[Claim, ...]:
    """Every claim; "not decided" where no model has the runs it needs."""
    return (
        *(_reaches(table, kind) for kind in _CLAIMS),
        _fast_and_level(table),
        _sooner(table, 1.0, "the accuracy that Backprop ends with"),
        _sooner(table, NEARLY, f"{NEARLY:.0%} of the accuracy that Backprop ends with"),
    )


def _reaches(table: Sequence[Study], kind: str) -> Claim:
    pairs = [(study, each) for study in table for each in study.others if family(each.method) == kind]
    decided = [(study, each, level) for study, each in pairs if (level := study.is_level(each)) is not None]
    return Claim(
        claim=_CLAIMS[kind],
        paper=_PAPER.get(kind, _NOT_THE_PAPERS),
        measured="; ".join(_compared(study, each, level) for study, each, level in decided) or "no record",
        verdict=all_or_some([level for _, _, level in decided]),
        key=_points_lost(decided),
        how=_HOW_LEVEL,
    )


def _points_lost(decided: Sequence[tuple[Study, Trained, bool]]) -> str:
    lost = [study.points_lost(each) for study, each, _ in decided]
    return f"{min(lost):.1f} to {max(lost):.1f} points below Backprop" if lost else ""


def _compared(study: Study, each: Trained, level: bool) -> str:
    assert study.backprop is not None
    layer = f" ({each.method.partition(':')[2]})" if ":" in each.method else ""
    return (
        f"{study.name}{layer}: {shown(each)} against {shown(study.backprop)} under Backprop"
        f"{'' if level else ', Backprop wins'}"
    )


def shown(trained: Trained) -> str:
    """Mean and standard error in percent; one seed has no standard error."""
    error = "" if math.isnan(trained.error) else f" ± {100 * trained.error:.1f}"
    return f"{100 * trained.accuracy:.1f}{error}%"


def _fast_and_level(table: Sequence[Study]) -> Claim:
    both = {
        study.name: [each for each in study.others if study.is_level(each) and (study.speed(each) or 0) >= _FAST]
        for study in table
        if any(study.speed(each) is not None for each in study.others)
    }
    speeds = {study.name: study.speed for study in table}
    return Claim(
        claim=f"A collapsed pass trains at Backprop's accuracy at least {_FAST:g} times faster a step.",
        paper=_NOT_THE_PAPERS,
        measured="; ".join(
            f"{name}: "
            + (", ".join(f"{method_name(each.method)} ({speeds[name](each):.2f} times)" for each in found) or "none")
            for name, found in both.items()
        )
        or "no timing",
        verdict=all_or_some([bool(found) for found in both.values()]),
        key=f"on {sum(map(bool, both.values()))} of {len(both)} models",
        how=f"holds where on every model some method is level with Backprop, as above, and its step, optimizer "
        f"included, at least {_FAST:g} times faster as timed in turns; partly where on some",
    )


def _sooner(table: Sequence[Study], share: float, level: str) -> Claim:
    raced = [(study, *race) for study in table if (race := _race(study, share)) is not None]
    won = [best is not None and best[1] < backprop for _, backprop, best in raced]
    return Claim(
        claim=f"A collapsed pass reaches {level} in less time than Backprop.",
        paper=_NOT_THE_PAPERS,
        measured="; ".join(_raced(*each) for each in raced) or "no timing",
        verdict=all_or_some(won),
        key=f"on {sum(won)} of {len(won)} models",
        how="training seconds are steps times the timed seconds of a step; the mean curve over seeds, linear between "
        "epochs and from chance in the first; holds where the first method to arrive is not Backprop on every "
        "model; partly where on some",
    )


def _race(study: Study, share: float) -> tuple[float, tuple[Trained, float] | None] | None:
    """Backprop's seconds to its share, and the first of the others and its seconds; None without timing."""
    if study.backprop is None:
        return None
    level = share * study.backprop.accuracy
    seconds = study.backprop.seconds_to(level)
    if seconds is None:
        return None
    arrived = [(each, reached) for each in study.others if (reached := each.seconds_to(level)) is not None]
    return seconds, min(arrived, key=lambda pair: pair[1], default=None)


def _raced(study: Study, backprop: float, best: tuple[Trained, float] | None) -> str:
    if best is None:
        return f"{study.name}: none but Backprop, in {backprop:.1f} s"
    each, seconds = best
    loser = "" if seconds < backprop else ": Backprop wins"
    return f"{study.name}: {method_name(each.method)} in {seconds:.1f} s, Backprop in {backprop:.1f} s{loser}"
