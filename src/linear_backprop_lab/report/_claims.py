"""What the paper claims, beside what the records say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "partly", "does not hold", "no difference seen", "not decided"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of the paper and what came of it.

    Attributes:
        claim: What the paper says, in one sentence.
        paper: The paper's own value, or its words.
        measured: What the records say, with numbers and how many runs they are of.
        verdict: What `how` makes of `measured`; `"not decided"` where records are missing.
        how: The rule the verdict follows, stated so that a reader can apply it to `measured`.
        key: The number that says most, in a few words.
    """

    claim: str
    paper: str
    measured: str
    verdict: Verdict
    how: str
    key: str = ""


def all_or_some(outcomes: Sequence[bool]) -> Verdict:
    """Holds where every outcome does, partly where some do; not decided where there are none."""
    if not outcomes:
        return "not decided"
    if all(outcomes):
        return "holds"
    return "partly" if any(outcomes) else "does not hold"


def by_share(outcomes: Sequence[bool], most: float, some: float) -> Verdict:
    """Holds where a share of `most` at least do, partly where one of `some`; not decided where there are none."""
    if not outcomes:
        return "not decided"
    share = sum(outcomes) / len(outcomes)
    return "holds" if share >= most else "partly" if share >= some else "does not hold"


def by_direction(outcomes: Sequence[int]) -> Verdict:
    """From comparisons that say 1 (as claimed), -1 (the opposite) or 0 (no difference beyond error).

    Holds where all are 1, partly where some are; no difference seen where all are 0; not decided where there are none.
    """
    if outcomes and not any(outcomes):
        return "no difference seen"
    return all_or_some([outcome > 0 for outcome in outcomes])
