"""What a conversion did: a report, and the means to undo it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ._activations import Function
from ._errors import ConversionError
from ._layers import LayerRule
from ._rules import BackwardRule

if TYPE_CHECKING:
    from ._stand_in import StandIn


@dataclass(frozen=True)
class Site:
    """One place where a model runs a non-linearity.

    Attributes:
        path: The module's path; "" is the model itself.
        what: The module's class, or the function that the module's own `forward` calls.
        changed: Whether it follows a rule.
        reason: Why not; empty where it is changed.
        rule: The rule it follows; None where it is not changed.
    """

    path: str
    what: str
    changed: bool
    reason: str = ""
    rule: BackwardRule | LayerRule | None = None


class Conversion:
    """What `convert` did, and the means to undo it.

    Modules are listed at once. Activations that a module's own `forward` calls (`F.relu(x)`) are listed
    once they have run, compiled code excepted: they follow the rule all the same.

    Attributes:
        rule: The rule the changed activations follow.
        layers: The rules of layers.
    """

    def __init__(self, rule: BackwardRule, layers: tuple[LayerRule, ...] = ()) -> None:
        self.rule = rule
        self.layers = layers
        self.stand_ins: list[StandIn] = []
        self._sites: dict[tuple[str, str], Site] = {}
        self._running: list[StandIn] = []

    @property
    def changed(self) -> list[Site]:
        """The activations, and layers, that follow a rule."""
        return [site for site in self._sites.values() if site.changed]

    @property
    def unchanged(self) -> list[Site]:
        """The non-linearities that do not, each with the reason."""
        return [site for site in self._sites.values() if not site.changed]

    @contextmanager
    def running(self, stand_in: StandIn) -> Generator[None]:
        """While a module's `forward` runs, `observe` lists calls as its own; for the stand-ins, not for users."""
        self._running.append(stand_in)
        try:
            yield
        finally:
            self._running.pop()

    def observe(self, function: Function) -> None:
        """A function was called; for the stand-ins, not for users."""
        if self._running:
            self._running[-1].observe(function)

    def remove(self) -> None:
        """Make the model exactly what it was; nothing is done the second time.

        Raises:
            ConversionError: The model was converted again since; nothing is removed.
        """
        for stand_in in self.stand_ins:
            if not stand_in.is_in_place():
                raise ConversionError(
                    f"module {stand_in.path!r} was converted again, or its forward replaced, after this "
                    f"conversion; remove that first"
                )
        while self.stand_ins:
            self.stand_ins.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __str__(self) -> str:
        rows = [("path", "activation or layer" if self.layers else "activation", "backward pass")]
        for site in self._sites.values():
            how = repr(site.rule) if site.changed else "left: " + site.reason
            rows.append((site.path or "(model)", site.what, how))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{path:<{widths[0]}}  {what:<{widths[1]}}  {how}" for path, what, how in rows]
        return "\n".join([*lines, f"{len(self.changed)} changed, {len(self.unchanged)} left alone"])

    def __repr__(self) -> str:
        rules = ", ".join(map(repr, (self.rule, *self.layers)))
        return f"<Conversion to {rules}: {len(self.changed)} changed, {len(self.unchanged)} left alone>"

    def add(self, path: str, what: str, rule: BackwardRule | LayerRule | None, reason: str) -> None:
        """List a site, changed to the rule unless there is a reason against; for `convert`, not for users."""
        site = Site(path, what, not reason, reason, None if reason else rule)
        self._sites.setdefault((path, what), site)
