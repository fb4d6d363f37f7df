"""The records of the study `transfer` as one table: how many images each attack fools each victim on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from linear_backprop_lab.records import Run

from .methods import LINEAR, PLAIN, Method


@dataclass(frozen=True, eq=False)
class Row:
    """One attack on one victim.

    Attributes:
        source: Where it was crafted.
        victim: Where it was tried.
        steps: Of the attack.
        momentum: Of the attack.
        eps: The largest change of a pixel.
        method: Which attack.
        fooled: For every seed and image whether the victim was fooled: (seeds, images).
    """

    source: str
    victim: str
    steps: int
    momentum: float
    eps: float
    method: Method
    fooled: NDArray[np.bool_]

    @property
    def setting(self) -> tuple[str, str, int, float]:
        """What all attacks of a run share."""
        return self.source, self.victim, self.steps, self.momentum

    @property
    def rate(self) -> float:
        """The share of images that fool the victim, over seeds."""
        return float(self.fooled.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of the rate, of as many trials as there are images: seeds share them."""
        # Imported here because it takes a second, and most of what the command line does goes without.
        from scipy import stats

        images = self.fooled.shape[1]
        found = stats.binomtest(round(self.rate * images), images).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


@dataclass(frozen=True)
class Gain:
    """How much more often one attack fools than another does on the same images.

    Attributes:
        value: The difference of the rates.
        low: The lower end of the 95% interval of its mean over images.
        high: The upper end.
    """

    value: float
    low: float
    high: float

    @property
    def direction(self) -> int:
        """1 above 0, -1 below, 0 where the interval has 0 in it."""
        return (self.low > 0) - (self.high < 0)

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def gain(row: Row, over: Row, part: slice = slice(None)) -> Gain:
    """The gain of a row over another, seeds averaged for each image, on a part of the images."""
    differences = (row.fooled.mean(0) - over.fooled.mean(0))[part]
    error = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    value = float(differences.mean())
    return Gain(value, value - error, value + error)


def by_size(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of attacks on as many images, those on the most first."""
    attacks = sorted((run for run in runs if run.config["experiment"] == "transfer"), key=_setting)
    sizes = sorted({run.config["images"] for run in attacks}, reverse=True)
    return [[run for run in attacks if run.config["images"] == size] for size in sizes]


def rows(attacks: Sequence[Run]) -> list[Row]:
    """Every attack and victim of complete runs on as many images."""
    return [row for run in attacks for row in _rows(run)]


def _setting(run: Run) -> tuple[str, str, int, float]:
    """Source, victim, steps and momentum: what tells two runs of one size apart, and the order they are shown in."""
    source, victim, steps, momentum = (run.config[name] for name in ("source", "victim", "steps", "momentum"))
    return source, victim, steps, momentum


def _rows(run: Run) -> list[Row]:
    with np.load(run.folder / "fooled.npz") as arrays:
        fooled = arrays["fooled"]  # (attacks, starts, source and victim, images)
    eps = run.record.get("eps", run.config["eps"])
    return [
        Row(*_setting(run), eps, Method(line["kind"], line["changed"]), of_attack[:, 1])
        for line, of_attack in zip(run.metrics, fooled, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A kind of attack at its best position beside I-FGSM, from one source to one victim, other settings alike.

    The position is chosen on every other image, the first among them, and judged on those between.

    Attributes:
        kind: The kind.
        best: The row at the best position.
        plain: I-FGSM's.
        gain: On the images that did not choose.
    """

    kind: str
    best: Row
    plain: Row
    gain: Gain


CHOOSING, JUDGING = slice(0, None, 2), slice(1, None, 2)


def comparisons(table: Sequence[Row]) -> list[Comparison]:
    """One a source, victim, number of steps, momentum and kind."""
    found: list[Comparison] = []
    for setting in dict.fromkeys(row.setting for row in table):
        members = [row for row in table if row.setting == setting]
        plain = next(row for row in members if row.method.kind == PLAIN)
        for kind in dict.fromkeys(row.method.kind for row in members if row is not plain):
            best = max((r for r in members if r.method.kind == kind), key=lambda r: r.fooled[:, CHOOSING].mean())
            found.append(Comparison(kind, best, plain, gain(best, plain, JUDGING)))
    return found


def is_linear(comparison: Comparison) -> bool:
    """Whether the backward pass is linear above a layer."""
    return comparison.kind in LINEAR
