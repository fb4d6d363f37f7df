"""The proof that one operation is affine in each sample, with coefficients that are the same for all.

The operation alone is run on random values of its own shapes: at samples z and at mixtures W z of them, with rows of
W that sum to one. It is affine in each sample if f(W z) = W f(z) for random z and W. Its backward pass is that of an
affine map if it is the same at random z, and if samples that receive W^T g send on what mixtures that receive g do.
What else it reads (parameters, constants) is random, too, so that nothing holds because a factor happens to be zero
today. All this in float64 where the operation allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from ..._torch.functions import HigherOrderOperator, is_of_pytorch
from ..captured.graph import name_of, run_node, tensors_of
from ..captured.layout import Layout, candidates, of_positions
from ..captured.trace import Trace
from .experiment import Operation
from .trial import Trial
from .values import close, is_inexact, mixed, mixing

_UNINITIALIZED = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "empty_permuted"}


class Proof:
    """Proves operations of a traced graph, in its order, and knows where their results keep their samples.

    Args:
        trace: The trace.
        positions: The sizes of a sample's positions, where every position counts as a sample; () where none does.

    Attributes:
        layouts: By node, where each of its tensors keeps its samples; None for one that holds none.
        alike: The nodes whose values are the same for every sample, whatever the samples are.
        weights: Of the mixtures, one row each.
        is_thorough: Whether operations that depend on the number of samples are tried in batches of many sizes, which
            is half of the time that a proof takes.
    """

    def __init__(self, trace: Trace, positions: tuple[int, ...] = ()) -> None:
        self.trace, self.positions = trace, positions
        self.layouts: dict[fx.Node, list[Layout | None]] = {}
        self.alike: set[fx.Node] = set()
        self.is_thorough = True
        self._proved: dict[Any, tuple[fx.Node, str]] = {}
        count = torch.Size(positions).numel()
        self.weights = mixing(trace.sizes[1] * count, trace.sizes[0] * count)

    def place(self, node: fx.Node, like: fx.Node | None = None) -> str:
        """Note where a node keeps its samples, by its shapes or as another does; the fault if nowhere."""
        known = self.layouts[like][0] if like is not None else None
        found = [self._options(first, second) for first, second in self.pairs(node)]
        if not all(found):
            return "it does not keep the samples apart"
        self.layouts[node] = [known if known in options else options[0] for options in found]
        return ""

    def fault(self, node: fx.Node, operation: Operation | None = None) -> str:
        """Why an operation is not affine in each sample; empty if it is, and then its layouts are known.

        Args:
            node: Its node.
            operation: What to run in its place, given the values that it reads.
        """
        if isinstance(node.target, HigherOrderOperator):
            return "it has a backward pass of its own, or runs code that depends on the sample"
        if operation is not None:
            return self._tried(node, operation)
        signature = self._signature(node)
        if signature not in self._proved:
            self._proved[signature] = node, self._tried(node, partial(self._ran, node))
        like, fault = self._proved[signature]
        if like is not node and not fault:
            self.layouts[node] = self.layouts[like]
            if like in self.alike:
                self.alike.add(node)
        return fault

    def _ran(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        """What the operation makes; memory that it leaves as it is holds zeros, and not today's anything."""
        made = run_node(node, values, self.trace.module)
        return made.zero_() if name_of(node) in _UNINITIALIZED else made

    def _tried(self, node: fx.Node, run: Operation) -> str:
        for dtype in (torch.float64, None):  # some operations exist in the model's own precision alone
            try:
                return Trial(self, node, run, dtype).fault()
            except Exception as error:
                failure = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        return f"it cannot be run by itself ({failure})"

    def _signature(self, node: fx.Node) -> Any:
        """What the proof of an operation depends on; the node itself where that is more than forms."""
        forms: dict[fx.Node, str] = {}
        for place, arg in enumerate(node.all_input_nodes):
            tensors = self.trace.values[arg]
            if not all(isinstance(t, Tensor) and is_inexact(t) for t in tensors):
                return node
            layouts = self.layouts[arg] if arg in self.trace.carries else None
            form = [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors]
            forms[arg] = repr((place, form, layouts, arg in self.alike))
        if node in self.trace.overwrites or not forms or not is_of_pytorch(node.target):
            return node
        return node.target, repr(fx.map_arg((node.args, node.kwargs), forms.__getitem__))  # pyright: ignore

    def pairs(self, node: fx.Node) -> list[tuple[Tensor, Tensor]]:
        first, second = map(tensors_of, self.trace.values[node])
        return list(zip(first, second, strict=True))

    def _options(self, first: Tensor, second: Tensor) -> list[Layout]:
        """The layouts that the shapes of a tensor in the two runs allow."""
        if not self.positions:
            return list(candidates(first.shape, second.shape, self.trace.sizes))
        found = [
            of_positions(t.shape, size, self.positions)
            for t, size in zip((first, second), self.trace.sizes, strict=True)
        ]
        return [found[0]] if found[0] is not None and found[0] == found[1] else []

    def fitting(self, first: Tensor, second: Tensor) -> list[Layout | None]:
        """The layouts under which `second` is the mixture of `first`; [None] if both are one constant."""
        options = self._options(first, second)
        if options:
            return [layout for layout in options if close(second, self.mix(layout, first, second), first)]
        return [None] if first.shape == second.shape and close(second, first, first) else []

    def mix(self, layout: Layout, z: Tensor, like: Tensor) -> Tensor:
        """Mixtures of samples, in the shape of `like`."""
        return mixed(self.weights, layout, z, like)
