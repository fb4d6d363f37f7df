"""The section on transfer attacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from matplotlib.ticker import MaxNLocator, PercentFormatter

from linear_backprop_lab.records import Run
from linear_backprop_lab.report import Claim, Figure, Section, Table, by_direction
from linear_backprop_lab.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, YELLOW, label_ends, panels, to_svg
from linear_backprop_lab.studies._badges import SMALL

from .methods import PLAIN
from .runs import FOOLED_AT_LEAST
from .table import Comparison, Gain, Row, by_size, comparisons, is_linear, rows

_STYLES = {"LinBP": ORANGE, "Renormalized": GREEN, "first two runs": GREY, "SiLU": PURPLE, "BPA": YELLOW}
_PLAIN = BLUE["color"]


def transfer(runs: Sequence[Run]) -> Section:
    """The section, from complete runs of the experiment `transfer`, at least one, and of its networks."""
    sizes = by_size(runs)
    tables = list(map(rows, sizes))
    found = list(map(comparisons, tables))
    fewest = min(row.steps for row in tables[0])
    return Section(
        id="transfer",
        title="Transfer attacks: does a linear backward pass fool other networks better?",
        asked=" ".join([_QUESTION, *(_setting(*each, runs) for each in zip(sizes, tables, strict=True))]),
        figures=tuple(_by_position(tables[0], *group) for group in _groups(tables[0]) if group[0] == fewest),
        claims=(_claim(found, is_linear, "A linear backward pass transfers better."), _claim(found, _is_silu, _SILU)),
        table=Table.of([_cells(each) for size in found for each in size]),
        rerun=f"linear-backprop reproduce transfer{'' if _is_small(sizes[0]) else ' --scale paper'}",
        finding=_finding(found[0]),
        badges=(SMALL,) if _is_small(sizes[0]) else (),
    )


_QUESTION = (
    "Guo et al. (2020) report that adversarial examples crafted with a backward pass that is linear above some layer "
    "(LinBP) fool other networks far better. Here they are crafted on one network and tried on others. Beside "
    "LinBP, by position: its gradient rescaled to the true one's norm (Renormalized), linear in the first two runs of "
    "a block's ReLU alone as Guo et al. do on ResNets, SiLU's slope for ReLU's (SiLU), and that with softened pooling "
    "(BPA). In a network without branches Renormalized scales each image's gradient as a whole, and is LinBP."
)
_SILU = "SiLU's slope in the place of ReLU's, as in BPA, transfers better."


def _is_silu(comparison: Comparison) -> bool:
    return not is_linear(comparison)


def _groups(table: Sequence[Row]) -> list[tuple[int, float]]:
    return sorted({(row.steps, row.momentum) for row in table})


def _is_small(attacks: Sequence[Run]) -> bool:
    """Whether the networks and images are those of a laptop."""
    return not isinstance(attacks[0].config["eps"], list)


def _setting(attacks: Sequence[Run], table: Sequence[Row], runs: Sequence[Run]) -> str:
    groups = ", ".join(f"{steps} with momentum {momentum:g}" for steps, momentum in _groups(table))
    starts = max(row.fooled.shape[0] for row in table)
    return (
        f"{_size(table[0])}: test images that source and victim classify rightly, {_changes(attacks, table)}, steps: "
        f"{groups}, at most {starts} random starts. {_networks(attacks, runs)}"
    )


def _size(row: Row) -> str:
    return f"{row.fooled.shape[1]:,} images"


def _changes(attacks: Sequence[Run], table: Sequence[Row]) -> str:
    of_pairs = {f"{row.source} to {row.victim}": 255 * row.eps for row in table}
    if _is_small(attacks):
        return f"changes of at most {max(of_pairs.values()):g}/255"
    each = ", ".join(f"{pair} {levels:g}/255" for pair, levels in of_pairs.items())
    return f"the least change at which I-FGSM of ten steps fools the victim on {FOOLED_AT_LEAST:.0%} of them ({each})"


def _networks(attacks: Sequence[Run], runs: Sequence[Run]) -> str:
    attacked = [config for run in attacks for config in run.config.get("networks", {}).values()]
    trained = [run for run in runs if run.config in attacked]
    accuracies = ", ".join(f"{run.config['network']} {run.record['test_accuracy']:.1%}" for run in trained)
    return f"Test accuracies: {accuracies}." if trained else ""


def _finding(found: Sequence[Comparison]) -> str:
    kinds = {"a linear backward pass": is_linear, "SiLU's slope, as in BPA": _is_silu}
    gains = [f"by {text} with {name}" for name, wanted in kinds.items() if (text := _by_source(filter(wanted, found)))]
    if not gains:
        return ""
    return f"At the best position, other networks are fooled more often than by the true gradient: {'; '.join(gains)}."


def _by_source(found: Iterable[Comparison]) -> str:
    """The mean gain from every source, and in how many comparisons its interval is above 0, and below."""
    gains: dict[str, list[Gain]] = {}
    for each in found:
        gains.setdefault(each.best.source, []).append(each.gain)
    return ", ".join(f"{_mean(each)} points from {source} ({_counts(each)})" for source, each in gains.items())


def _mean(gains: Iterable[Gain]) -> str:
    return f"{fmean(100 * each.value for each in gains):+.1f}"


def _counts(gains: Sequence[Gain]) -> str:
    ahead, behind = (sum(each.direction == way for each in gains) for way in (1, -1))
    return f"ahead in {ahead}{f' and behind in {behind}' if behind else ''} of {len(gains)}"


def _claim(sizes: Sequence[Sequence[Comparison]], wanted: Callable[[Comparison], bool], claim: str) -> Claim:
    found = [[each for each in size if wanted(each)] for size in sizes]
    chosen = [each for size in found for each in size]
    pairs = {(each.best.source, each.best.victim) for each in chosen}
    return Claim(
        claim=claim,
        paper="not in the paper; Guo et al. (2020) for LinBP, Wang et al. (2023) for BPA",
        measured="; ".join(f"{_size(size[0].best)}: {_by_kind(size)}" for size in found if size),
        verdict=by_direction([each.gain.direction for each in chosen]) if len(pairs) > 1 else "not decided",
        key=_by_source(found[0]),
        how="success at the best position minus I-FGSM's, on average over victims, steps and momentum (each is in "
        "the table); the position is chosen on every other image and judged on those between. Holds where the "
        "95% interval of the gain is above 0 from every source to every victim, with every number of steps, "
        "momentum and number of images; partly where in some; no difference seen where 0 is in all intervals. "
        "Decided where there are two pairs of networks at least",
    )


def _by_kind(found: Sequence[Comparison]) -> str:
    kinds = dict.fromkeys(each.kind for each in found)
    return "; ".join(f"{kind}: {_by_source(each for each in found if each.kind == kind)}" for kind in kinds)


def _by_position(table: Sequence[Row], steps: int, momentum: float) -> Figure:
    members = [row for row in table if (row.steps, row.momentum) == (steps, momentum)]
    pairs = list(dict.fromkeys((row.source, row.victim) for row in members))
    with panels([f"{source} to {victim}" for source, victim in pairs], height=2.5) as drawn:
        for panel, pair in zip(drawn, pairs, strict=True):
            of_pair = [row for row in members if (row.source, row.victim) == pair]
            plain = next(row for row in of_pair if row.method.kind == PLAIN)
            last = max(row.method.changed for row in of_pair)
            panel.plot([0, last], [plain.rate] * 2, color=_PLAIN, label=PLAIN)
            panel.fill_between([0, last], *plain.interval, color=_PLAIN, alpha=0.15, linewidth=0)
            for kind in dict.fromkeys(row.method.kind for row in of_pair if row is not plain):
                line = sorted((row for row in of_pair if row.method.kind == kind), key=lambda row: row.method.changed)
                counts, rates = [row.method.changed for row in line], [row.rate for row in line]
                panel.plot(counts, rates, **_STYLES[kind], label=kind)
            panel.yaxis.set_major_formatter(PercentFormatter(1))
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_ylabel("victim fooled")
            label_ends(panel)
        drawn[-1].set_xlabel("activations changed, counted from the output")
        svg = to_svg(drawn[0], salt=f"transfer-{steps}-{momentum:g}")
    return Figure(
        f"Success by position: {steps} steps, momentum {momentum:g}",
        "The share of images on which a victim is fooled, by how many modules of activations follow another rule in "
        "the source's backward pass; band: the 95% Wilson interval of I-FGSM's. Means over random starts.",
        svg,
    )


def _cells(each: Comparison) -> dict[str, str]:
    row = each.best
    low, high = row.interval
    return {
        "images": _size(row).removesuffix(" images"),
        "source": row.source,
        "victim": row.victim,
        "steps": str(row.steps),
        "momentum": f"{row.momentum:g}",
        "eps": f"{255 * row.eps:g}/255",
        "attack": each.kind,
        "changed": str(row.method.changed),
        "fooled": f"{row.rate:.1%} ({low:.1%} to {high:.1%})",
        "I-FGSM": f"{each.plain.rate:.1%}",
        "gain on the other images": str(each.gain),
    }
