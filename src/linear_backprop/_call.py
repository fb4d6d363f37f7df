"""A call as a value: a function and what it is called with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._torch.functions import Function


@dataclass(frozen=True)
class Call:
    """One call of a function, before or after it runs; what a `LayerRule` of one's own is given.

    Attributes:
        function: Any callable.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    function: Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Run the call."""
        return self.function(*self.args, **self.kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def input(self) -> Any:
        """The first argument, by position or as `input`, which kernels call `self`; None where it is not given."""
        return self.args[0] if self.args else self.kwargs.get("input", self.kwargs.get("self"))

    @property
    def rest(self) -> tuple[Any, ...]:
        """The positional arguments after the input."""
        return self.args[1:]

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments, without the input where it is one."""
        return {name: value for name, value in self.kwargs.items() if self.args or name not in ("input", "self")}

    def on(self, input: Any) -> Call:
        """The same call of another input."""
        return Call(self.function, (input, *self.rest), self.keywords)

    def argument(self, name: str, position: int | None) -> Any:
        """An argument by its position in the full list, or by its name; None where it is not given."""
        if position is not None and position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name)

    def arguments(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument by its name.

        Args:
            defaults: The names in order, each with its default.
        """
        return {**defaults, **dict(zip(defaults, self.args, strict=False)), **self.kwargs}
