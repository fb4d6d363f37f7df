"""What limits what a section says, on its face: its scale, its data, runs that have not ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Section
from linear_backprop_lab.studies.images.scale import has_paper_width

SMOKE = "smoke: shows that it runs, decides nothing"
SMALL = "smaller than the paper's"
DIGITS = "digits in place of CIFAR-10"
GOES_ON = "not finished"
MISSING = "records missing: nothing decided"

_FEWEST_IMAGES, _FEWEST_SEEDS = 1000, 5
_OF_OTHER_NETWORKS = ("collapse", "transfer-networks")


def with_badges(section: Section, runs: Sequence[Run]) -> Section:
    """The section with its badges; at the smallest scale with no verdict and no finding."""
    sized = [run for run in runs if "train_images" in run.config or "seeds" in run.config]
    found = {
        SMOKE: bool(sized) and all(map(_is_smoke, sized)),
        SMALL: any(map(_is_small, runs)),
        DIGITS: any(map(_is_digits, runs)),
    }
    found[MISSING] = not section.claims
    found[GOES_ON] = any(run.record["status"] == "unfinished" for run in runs if "status" in run.record)
    badged = replace(section, badges=(*section.badges, *(badge for badge, holds in found.items() if holds)))
    if not found[SMOKE]:
        return badged
    claims = tuple(replace(claim, verdict="not decided") for claim in section.claims)
    return replace(badged, claims=claims, finding="", headline=None)


def _is_smoke(run: Run) -> bool:
    images, seeds = run.config.get("train_images", _FEWEST_IMAGES), run.config.get("seeds")
    return images < _FEWEST_IMAGES or (seeds is not None and len(seeds) < _FEWEST_SEEDS)


def _is_small(run: Run) -> bool:
    """Whether the network is narrower than the paper's; networks of other experiments have no width of the paper."""
    return run.config["experiment"] not in _OF_OTHER_NETWORKS and not has_paper_width(run)


def _is_digits(run: Run) -> bool:
    return run.config.get("data") == "digits"
