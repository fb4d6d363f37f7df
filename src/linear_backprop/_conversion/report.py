"""The report of a conversion: what was found, what follows a rule, and why the rest does not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from torch import nn

from .._catalogue.activations import ARITHMETIC
from .._errors import ConversionError
from .._rules.rule import BackwardRule, LayerRule
from .._torch.functions import Function
from .._torch.recording import is_recorded
from .classify import Classified, Found, Kind, classify_function, classify_unreachable

NOT_SELECTED = "not selected by `where`"
NOT_RECORDED = (
    "ran where autograd records nothing, under `torch.no_grad()` or inside a `torch.autograd.Function`, "
    "whose own backward pass stays"
)
ALONE = "it alone: the arithmetic around it keeps its derivative; put `with_rule` on the whole"


@dataclass(frozen=True)
class Site:
    """One place where a model runs a non-linearity.

    Attributes:
        path: The module's path; "" is the model itself.
        what: The module's class, or the function that the module's own `forward` calls.
        changed: True if it follows a rule.
        reason: Why not; empty where it is changed.
        rule: The rule it follows; None where it is not changed.
        note: What the rule does not reach there; empty where it reaches all.
    """

    path: str
    what: str
    changed: bool
    reason: str = ""
    rule: BackwardRule | LayerRule | None = None
    note: str = ""

    @property
    def backward_pass(self) -> str:
        """What the site's backward pass is, in words."""
        if not self.changed:
            return "left: " + self.reason
        return f"{self.rule!r}; {self.note}" if self.note else repr(self.rule)


class Report:
    """The sites of one conversion, as they become known.

    Modules are listed at once, but for those of which only running them can tell what they call.

    Args:
        rule: The rule of activations.
        layers: The rules of layers.
        found: The modules of the model.
    """

    def __init__(self, rule: BackwardRule, layers: tuple[LayerRule, ...], found: Iterable[Found]) -> None:
        self.rule = rule
        self.layers = layers
        self.expects_calls = False
        self._sites: dict[tuple[str, str], Site] = {}
        self._settled: set[tuple[str, Function]] = set()
        self._with_arithmetic: set[str] = set()
        self._runs: dict[str, frozenset[int]] = {}
        for each in found:
            if each.runs is not None:
                self._runs[each.path] = each.runs
            if each.kind not in (Kind.PLAIN, Kind.CONTAINER, Kind.OPAQUE):
                self._add(each.path, type(each.module).__name__, each.classified, each.selected)
            elif each.kind is Kind.OPAQUE:
                self.expects_calls |= each.selected
                for what, classified in classify_unreachable(each.module):
                    self._add(each.path, what, classified, each.selected)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_settled": set()}  # some of PyTorch's functions cannot be pickled

    @property
    def sites(self) -> list[Site]:
        """All sites, in the order in which they became known."""
        return list(self._sites.values())

    @property
    def changed(self) -> list[Site]:
        """The sites that follow a rule."""
        return [site for site in self.sites if site.changed]

    @property
    def unchanged(self) -> list[Site]:
        """The sites that do not, each with the reason."""
        return [site for site in self.sites if not site.changed]

    def list_call(self, path: str, selected: bool, function: Function) -> None:
        """List a function that the code of the module at `path` calls, if it is a non-linearity."""
        if (path, function) in self._settled:  # as in every forward pass but the first
            return
        if function in ARITHMETIC:
            self._settled.add((path, function))
            self._flag(path)
            return
        recorded = is_recorded()
        if recorded:
            self._settled.add((path, function))
        classified = classify_function(function, self.layers)
        what = f"{function.__name__} (called)"
        known = self._sites.get((path, what))
        if classified.kind is not Kind.PLAIN and (known is None or known.reason == NOT_RECORDED):
            self.expects_calls = False
            self._add(path, what, classified, selected, recorded)

    def _flag(self, path: str) -> None:
        """Note at the calls listed for a module that it does arithmetic, too."""
        self._with_arithmetic.add(path)
        for key, site in self._sites.items():
            if site.changed and self._is_with_arithmetic(site.path):
                self._sites[key] = replace(site, note=self._note(site.path))

    def require_a_change(self, subject: str, model: nn.Module) -> None:
        """Raise if the conversion changed nothing.

        Raises:
            ConversionError: Says what was seen.
        """
        if self.changed:
            return
        if any(site.reason == NOT_RECORDED for site in self.unchanged):
            warnings.warn(f"{subject} activations only that {NOT_RECORDED}: none follows the rule", stacklevel=2)
            return
        seen = ", ".join(f"{site.what} at {site.path or 'the model'} ({site.reason})" for site in self.unchanged)
        classes = ", ".join(sorted({type(module).__name__ for module in model.modules()}))
        layer = ", and no layer that `layers` govern," if self.layers else ""
        raise ConversionError(
            f"{subject} no elementwise activation{layer} to change. Non-linearities seen: {seen or 'none'}; "
            f"modules: {classes}. "
            f"Widen `where`, or put `with_rule` on activations written out in arithmetic or in TorchScript"
        )

    def _add(self, path: str, what: str, classified: Classified, selected: bool, recorded: bool = True) -> None:
        reason = classified.reason or ("" if selected else NOT_SELECTED) or ("" if recorded else NOT_RECORDED)
        rule = None if reason else classified.rule or self.rule
        note = "" if rule is None else self._note(path)
        self._sites[path, what] = Site(path, what, changed=not reason, reason=reason, rule=rule, note=note)

    def _note(self, path: str) -> str:
        """What the rule does not reach in a module that follows it."""
        runs = sorted(self._runs.get(path, ()))
        single = f"run{'s' * (len(runs) > 1)} {', '.join(map(str, runs))} alone" if runs else ""
        return "; ".join(note for note in (single, ALONE if self._is_with_arithmetic(path) else "") if note)

    def _is_with_arithmetic(self, path: str) -> bool:
        """True for a module that does arithmetic, and for the activations below it."""
        return not self._with_arithmetic.isdisjoint((path, path.rpartition(".")[0]))


class Conversion:
    """The report of what `convert` did, as far as it is still in force, and the means to undo it.

    Modules are listed at once. Activations that a module's own code calls (`F.relu(x)`) are listed
    once they have run, compiled code excepted: they follow the rule all the same. What runs where autograd records
    nothing is listed as left alone, until it runs where something is recorded.

    Args:
        report: What was found.
        undo: Removes it.
        why_not: Given a path, the reason why it no longer decides for the module there; empty where it does.

    Attributes:
        rule: The rule the changed activations follow.
        layers: The rules of layers.
    """

    def __init__(self, report: Report, undo: Callable[[], None], why_not: Callable[[str], str]) -> None:
        self.rule = report.rule
        self.layers = report.layers
        self._report = report
        self._undo = undo
        self._why_not = why_not
        self._removed = False

    @property
    def changed(self) -> list[Site]:
        """The activations, and layers, that follow a rule."""
        return [site for site in self._sites if site.changed]

    @property
    def unchanged(self) -> list[Site]:
        """The non-linearities that do not, each with the reason."""
        return [site for site in self._sites if not site.changed]

    @property
    def _sites(self) -> list[Site]:
        sites = self._report.sites
        overruled = {path: reason for path in {site.path for site in sites} if (reason := self._why_not(path))}
        return [
            replace(site, changed=False, reason=overruled[site.path], rule=None, note="")
            if site.changed and site.path in overruled
            else site
            for site in sites
        ]

    def remove(self) -> None:
        """Make the model exactly what it was; nothing is done the second time.

        Raises:
            ConversionError: The model was converted again since; nothing is removed.
        """
        self._undo()
        self._removed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        rows = [("path", "activation or layer" if self.layers else "activation", "backward pass")]
        for site in self._sites:
            rows.append((site.path or "(model)", site.what, site.backward_pass))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{path:<{widths[0]}}  {what:<{widths[1]}}  {how}" for path, what, how in rows]
        more = ["what the modules' own code calls is listed once it has run"] if self._report.expects_calls else []
        return "\n".join([*lines, *more, self._summary()])

    def __repr__(self) -> str:
        rules = ", ".join(map(repr, (self.rule, *self.layers)))
        return f"<Conversion to {rules}: {self._summary()}>"

    def _summary(self) -> str:
        counts = f"{len(self.changed)} changed, {len(self.unchanged)} left alone"
        return f"removed; before: {counts}" if self._removed else counts
