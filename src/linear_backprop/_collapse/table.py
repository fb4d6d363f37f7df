"""The table of a collapsed model: what emits, what is proved affine, what a step costs and which path it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from torch import fx

from .._catalogue.activations import FORMS
from .captured.graph import Places, computes, function_of, name_of
from .plan.analysis import Analysis
from .plan.nonlinearity import NonLinearity
from .plan.plan import Plan
from .runner import CollapsedRunner, LocalRunner

_NAMED = 4
"""How many operations a line names."""

_LARGEST_BATCH = 2**24

Row = tuple[str, str, str]


def table_of(runner: CollapsedRunner | LocalRunner) -> str:
    """The table of one captured graph."""
    plan = runner.plan
    lines = [*_aligned(_rows(runner)), *_counts(plan), _costs(runner), _path(runner)]
    return "\n".join(lines)


def _rows(runner: CollapsedRunner | LocalRunner) -> list[Row]:
    """A row per non-linearity: its path, what it is, its backward pass."""
    plan, places = runner.plan, runner.plan.analysis.places
    rule = runner.rule if isinstance(runner, LocalRunner) else plan.rule
    how = {n.node: _backward_pass(n, rule) for n in plan.nonlinearities}
    how |= {n.node: f"{n.layer or rule!r}, on parameters alone" for n in plan.analysis.ruled}
    how |= {n: "left: below the collapsed part" for n in plan.below if _is_nonlinearity(plan.analysis, n)}
    rows = [(places.path(n) or "(model)", _what(places, n), how[n]) for n in plan.module.graph.nodes if n in how]
    return [(path, what if n == 1 else f"{what}, {n} times", how) for (path, what, how), n in Counter(rows).items()]


def _is_nonlinearity(analysis: Analysis, node: fx.Node) -> bool:
    return computes(node) and (analysis.found[node] is not None or function_of(node) in FORMS)


def _backward_pass(n: NonLinearity, rule: object) -> str:
    if n.layer is None:
        return repr(rule)
    return repr(n.layer) if n.emits else f"{n.layer!r}, which computes its own values: nothing to emit"


def _what(places: Places, node: fx.Node) -> str:
    """The module's class if it is PyTorch's own; the function if the model's code calls it."""
    module = places.module(node)
    if module is not None and type(module).__module__.startswith("torch.nn.modules."):
        return type(module).__name__
    return f"{name_of(node)} (called)"


def _aligned(rows: list[Row]) -> list[str]:
    rows = [("path", "activation or layer", "backward pass"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return [f"{path:<{widths[0]}}  {what:<{widths[1]}}  {how}" for path, what, how in rows]


def _counts(plan: Plan) -> list[str]:
    """What the other operations are."""
    analysis = plan.analysis
    emit = sum(n.emits for n in plan.nonlinearities)
    affine = sum(_is_proved(analysis, node) for node in plan.above)
    lines = [f"emit: {_number(emit, 'non-linearity', 'non-linearities')}; proved affine: {_operations(affine)}"]
    for what, nodes in (
        ("computed once, since no sample enters", plan.computed_once),
        ("below the collapsed part, with their true derivatives", plan.below),
    ):
        found = [node for node in plan.module.graph.nodes if node in nodes and computes(node)]
        if found:
            lines.append(f"{what}: {_operations(len(found))} ({_names(analysis.places, found)})")
    return lines


def _is_proved(analysis: Analysis, node: fx.Node) -> bool:
    return computes(node) and node in analysis.needed and analysis.found[node] is None


def _names(places: Places, nodes: Iterable[fx.Node]) -> str:
    names = list(dict.fromkeys(map(places.name, nodes)))
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _operations(count: int) -> str:
    return _number(count, "operation", "operations")


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _costs(runner: CollapsedRunner | LocalRunner) -> str:
    costs = runner.costs
    return (
        f"costs of a sample: {costs.forward:,.0f} floating-point operations forward, "
        f"{costs.numbers:,} numbers aggregated; C = {costs.outputs}"
    )


def _path(runner: CollapsedRunner | LocalRunner) -> str:
    """The path that a batch takes, and why."""
    local = isinstance(runner, LocalRunner)
    taken = "the C unit vectors go down the chain" if local else "collapsed"
    other = "the batch itself goes down the chain" if local else "the ordinary backward pass"
    if isinstance(runner, LocalRunner) and (runner.whole or runner.mixes):
        what = "of parameters alone" if runner.whole else "of all samples, below the collapsed part"
        return f"path: {other}, as it has to reach what is made {what}"
    if runner.options.always:
        return f"path: {taken}, whatever the batch (always=True)"
    if not local and runner.options.group is not None:
        return f"path: {taken}, whatever the batch, so that all workers send aggregates (process_group)"
    first = _smallest(runner.collapses)
    if first is None or first == 1:
        return f"path: {taken if first else other}, the cheaper one whatever the batch"
    return f"path: {taken} from {first:,} samples on; {other}, the cheaper one, with fewer"


def _smallest(collapses: Callable[[int], bool]) -> int | None:
    """The smallest batch that is collapsed, given that all larger ones are; None if none is."""
    above = 1
    while not collapses(above):
        above *= 2
        if above > _LARGEST_BATCH:
            return None
    below = above // 2
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if collapses(middle) else (middle, above)
    return above
