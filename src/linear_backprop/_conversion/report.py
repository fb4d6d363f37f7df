"""The report of a conversion: what was found, what follows a rule, and why the rest does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from torch import nn

from .._errors import ConversionError
from .._rules.rule import BackwardRule, LayerRule
from .._torch import Function
from .classify import Classified, Found, Kind, classify_function

NOT_SELECTED = "not selected by `where`"


@dataclass(frozen=True)
class Site:
    """One place where a model runs a non-linearity.

    Attributes:
        path: The module's path; "" is the model itself.
        what: The module's class, or the function that the module's own `forward` calls.
        changed: True if it follows a rule.
        reason: Why not; empty where it is changed.
        rule: The rule it follows; None where it is not changed.
    """

    path: str
    what: str
    changed: bool
    reason: str = ""
    rule: BackwardRule | LayerRule | None = None


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
        self._sites: dict[tuple[str, str], Site] = {}
        for each in found:
            if each.kind not in (Kind.PLAIN, Kind.OPAQUE):
                self._add(each.path, type(each.module).__name__, each.classified, each.selected)

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
        """List a function that the `forward` of the module at `path` calls, if it is a non-linearity."""
        what = f"{function.__name__} (called)"
        if (path, what) in self._sites:  # as it is in every forward pass but the first
            return
        classified = classify_function(function, self.layers)
        if classified.kind is not Kind.PLAIN:
            self._add(path, what, classified, selected)

    def require_a_change(self, subject: str, model: nn.Module) -> None:
        """Raise if the conversion changed nothing.

        Raises:
            ConversionError: Says what was seen.
        """
        if self.changed:
            return
        seen = ", ".join(f"{site.what} at {site.path or 'the model'} ({site.reason})" for site in self.unchanged)
        classes = ", ".join(sorted({type(module).__name__ for module in model.modules()}))
        layer = ", and no layer that `layers` govern," if self.layers else ""
        raise ConversionError(
            f"{subject} no elementwise activation{layer} to change. Non-linearities seen: {seen or 'none'}; "
            f"modules: {classes}. "
            f"Widen `where`, or put `with_rule` on activations written out in arithmetic or in TorchScript"
        )

    def _add(self, path: str, what: str, classified: Classified, selected: bool) -> None:
        reason = classified.reason or ("" if selected else NOT_SELECTED)
        rule = None if reason else classified.rule or self.rule
        self._sites[path, what] = Site(path, what, changed=not reason, reason=reason, rule=rule)


class Conversion:
    """The report of what `convert` did, and the means to undo it.

    Modules are listed at once. Activations that a module's own `forward` calls (`F.relu(x)`) are listed
    once they have run, compiled code excepted: they follow the rule all the same.

    Attributes:
        rule: The rule the changed activations follow.
        layers: The rules of layers.
    """

    def __init__(self, report: Report, undo: Callable[[], None]) -> None:
        self.rule = report.rule
        self.layers = report.layers
        self._report = report
        self._undo = undo

    @property
    def changed(self) -> list[Site]:
        """The activations, and layers, that follow a rule."""
        return self._report.changed

    @property
    def unchanged(self) -> list[Site]:
        """The non-linearities that do not, each with the reason."""
        return self._report.unchanged

    def remove(self) -> None:
        """Make the model exactly what it was; nothing is done the second time.

        Raises:
            ConversionError: The model was converted again since; nothing is removed.
        """
        self._undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        rows = [("path", "activation or layer" if self.layers else "activation", "backward pass")]
        for site in self._report.sites:
            how = repr(site.rule) if site.changed else "left: " + site.reason
            rows.append((site.path or "(model)", site.what, how))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{path:<{widths[0]}}  {what:<{widths[1]}}  {how}" for path, what, how in rows]
        return "\n".join([*lines, f"{len(self.changed)} changed, {len(self.unchanged)} left alone"])

    def __repr__(self) -> str:
        rules = ", ".join(map(repr, (self.rule, *self.layers)))
        return f"<Conversion to {rules}: {len(self.changed)} changed, {len(self.unchanged)} left alone>"
