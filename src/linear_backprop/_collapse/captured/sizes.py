"""The numbers of samples that a captured graph is traced with, and whether what it shows there holds for all.

Dynamo takes the number of samples for a symbol, and guards what the model's code takes for granted of it: `h[:10]` is
the first ten of more than ten samples, or all of fewer. A graph is traced with numbers that the same is true of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ..._torch.dynamo import size_expression

_FEW = (3, 2)
_MOST = 32  # times as many
LARGE = (1009, 4099)  # primes, so that nothing divides them


class BatchSize:
    """The number of samples in the batches that a graph is for.

    Args:
        inputs: The graph's inputs that hold samples.
        batch: The number of samples in the batch that it was captured with.
        guards: What the graph takes for granted of its symbolic sizes.

    Attributes:
        traced: The two numbers of samples to trace it with, the larger one first: their ratio tells where a tensor
            keeps its samples.
    """

    def __init__(self, inputs: Sequence[fx.Node], batch: int, guards: Sequence[Any]) -> None:
        self.batch = batch
        sizes = [size_expression(node.meta["example_value"].shape[0]) for node in inputs]
        self._symbols = {symbol for size in sizes for symbol in getattr(size, "free_symbols", ())}
        self._guards = [guard for guard in guards if guard.free_symbols <= self._symbols]
        self.traced = self._traced()

    def counts(self, number: torch.SymInt) -> bool:
        """Whether a number is the number of samples."""
        return size_expression(number) in self._symbols

    def makes(self, node: fx.Node) -> bool:
        """Whether a node is a number made of the number of samples."""
        return bool(getattr(size_expression(node.meta.get("example_value")), "free_symbols", ()))

    def knows(self, node: fx.Node) -> bool:
        """Whether a node's sizes follow from the number of samples; not those of `h[mask]`."""
        free = [getattr(size_expression(s), "free_symbols", set()) for s in _sizes_in(node.meta.get("example_value"))]
        return all(symbols <= self._symbols for symbols in free)

    def proportional(self, node: fx.Node, values: tuple[Any, Any]) -> bool:
        """Whether a node's sizes, or the number that it is, go on as in its values of the two traced numbers.

        They do not if the model's code computes `max(n, 8)`, `n // 4` or `n > 10` from the number n of samples.
        """
        first, second = self.traced
        shown = node.meta.get("example_value")
        for size, a, b in zip(_sizes_in(shown), _sizes_in(values[0]), _sizes_in(values[1]), strict=False):
            slope = (a - b) / (first - second)
            for number in self._numbers():
                if not abs(self._at(size, number) - (b + slope * (number - second))) <= 1e-6 * number:
                    return False
        return True

    def _traced(self) -> tuple[int, int]:
        for times in range(1, _MOST + 1) if self._symbols else ():
            more, fewer = (times * n for n in _FEW)
            if self.allows(more) and self.allows(fewer):
                return more, fewer
        return (self.batch, self.batch - 1) if self.batch > _FEW[0] else _FEW

    def _numbers(self) -> list[int]:
        """Numbers of samples that the graph is for."""
        return [self.batch, *(n for n in (self.batch + 1, *LARGE) if self._symbols and self.allows(n))]

    def allows(self, n: int) -> bool:
        """Whether the graph is for batches of n samples."""
        return all(self._at(guard, n) for guard in self._guards)

    def _at(self, size: Any, n: int) -> Any:
        """A size in a batch of n samples."""
        expression: Any = size_expression(size)
        if not hasattr(expression, "free_symbols"):
            return expression
        value = expression.subs(dict.fromkeys(self._symbols, n))
        if value.free_symbols:
            return math.nan
        return bool(value) if value.is_Boolean else float(value)


def _sizes_in(value: Any) -> list[Any]:
    """The sizes of a tensor, or of the tensors in a tuple; a number itself."""
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, (tuple, list)):
        return [size for each in value for size in _sizes_in(each)]
    numbers = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
    return [value] if isinstance(value, numbers) else []
