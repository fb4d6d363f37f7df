"""What the command line prints in rows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable

from rich.console import Group
from rich.markup import escape
from rich.table import Table

import linear_backprop as lb
from linear_backprop.diagnostics import Alignment
from linear_backprop_lab.records import Listed
from linear_backprop_lab.studies import EXPERIMENTS


def experiments_table() -> Table:
    """Every experiment, and what it runs."""
    table = _table("experiment", "what it runs")
    for experiment in EXPERIMENTS:
        table.add_row(experiment.name, f"{experiment.summary}{' (by default)' if experiment.by_default else ''}")
    return table


def runs_table(found: Iterable[Listed]) -> Table:
    """Records, a run a row."""
    table = _table("experiment", "record", "settings", "state", "best accuracy", "seconds")
    for run in found:
        accuracy = "" if run.best_accuracy is None else f"{100 * run.best_accuracy:.1f}%"
        seconds = "" if run.seconds is None else f"{run.seconds:.0f}"
        state = f"{run.state} ({run.detail})" if run.detail else run.state
        table.add_row(run.experiment, run.folder.name, *map(escape, (run.settings, state)), accuracy, seconds)
    return table


def rules_table() -> Table:
    """Every rule, its formula and its source."""
    table = _table("rule", "cotangent of a", "where it is from")
    for rule in lb.known_rules().values():
        table.add_row(_call(rule), rule.formula, rule.source)
    return table


def layer_rules_table() -> Table:
    """The same of the rules for layers, those of `lb.LINEAR_LAYERS` first."""
    table = _table("rule for layers", "cotangent of a", "where it is from")
    public = (each for each in vars(lb).values() if inspect.isclass(each) and issubclass(each, lb.LayerRule))
    for rule in dict.fromkeys((*map(type, lb.LINEAR_LAYERS), *public)):
        if rule is not lb.LayerRule:
            table.add_row(_call(rule), rule.formula, rule.source)
    return table


def alignment_table(alignment: Alignment) -> Group:
    """The cosine with Backprop's gradient, a parameter a row."""
    table = _table("gradient of", "cosine with Backprop's")
    for name, cosine in alignment.by_parameter.items():
        table.add_row(escape(name), f"{cosine:+.3f}" if math.isfinite(cosine) else _why_none(*alignment.norms[name]))
    table.add_row("all parameters", f"{alignment.cosine:+.3f}", style="bold")
    return Group(table, f"length of the whole gradient: {alignment.norm_ratio:.3g} times Backprop's")


def _why_none(of_rule: float, of_backprop: float) -> str:
    """The reason there is no cosine, from the lengths of both gradients."""
    if of_rule and of_backprop:
        return "not finite"
    return "zero under Backprop" if of_rule else "zero under the rule" if of_backprop else "no gradient"


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, header_style="bold")


def _call(rule: type[lb.BackwardRule | lb.LayerRule]) -> str:
    """How a rule is written, arguments and their defaults included."""
    parameters = inspect.signature(rule).parameters.values()
    given = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return f"{rule.__name__}({', '.join(given)})"
