"""`LocallyExact`, collapsed: a linear chain, and the exact derivative where it is used.

The chain's map from g_n to the cotangent of the k-th activation is the same for every sample: a matrix P_k of C
rows, had by sending the C unit vectors back through the model once. Then every layer knows its own cotangent,
delta_n = (g_n P_k) * f'(a_n), with no layer waiting for the one above: the graph is cut at every activation, and
what is left of it is one affine part a layer, whose parameters get their gradients from delta.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._activations import Function
from ._calls import call
from ._replay import Emitter, pre_activation
from ._rules import BackwardRule, LocallyExact, MeanLinear, vector_jacobian_product


@dataclass(frozen=True)
class _Cut:
    """One activation: f of a alone, a with the graph below it, and h with the graph of f's own parameters."""

    f: Callable[[Tensor], Tensor]
    a: Tensor
    h: Tensor


class _Cutter(TorchFunctionMode):
    """Runs the model as it is, its graph cut at every activation."""

    def __init__(self, rule: LocallyExact) -> None:
        super().__init__()
        self.rule = rule
        self.cuts: list[_Cut] = []

    def __torch_function__(
        self, func: Function, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if pre_activation(func, args, kwargs) is None:
            return func(*args, **(kwargs or {}))
        h: Tensor = call(func, self.rule, args, kwargs or {}, self.cut)
        return h.detach_()  # in-place forms return a itself, with the graph below it

    def cut(self, f: Callable[..., Tensor], rule: BackwardRule, a: Tensor, *parameters: Tensor) -> Tensor:
        """Keep the activation, and give its value without a graph."""
        alone = partial(_call, f, parameters)
        h = alone(a.detach())
        self.cuts.append(_Cut(alone, a, h))
        return h.detach()


def _call(f: Callable[..., Tensor], parameters: tuple[Tensor, ...], a: Tensor) -> Tensor:
    return f(a, *parameters)


def run_locally(model: nn.Module, rule: LocallyExact, inputs: tuple[Tensor, ...]) -> Tensor:
    """The model's output; its backward pass is the rule's."""
    cutter = _Cutter(rule)
    detached = [x.detach() for x in inputs]
    with cutter:
        y = model(*detached)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return _Local.apply(_Pass(model, rule, detached, cutter.cuts, y, parameters), y.detach(), *inputs, *parameters)


@dataclass(frozen=True)
class _Pass:
    """One forward pass, kept until its backward pass."""

    model: nn.Module
    rule: LocallyExact
    inputs: list[Tensor]
    cuts: list[_Cut]
    y: Tensor
    parameters: list[nn.Parameter]

    def chain(self, leading: int) -> list[Tensor]:
        """P for every input and every activation: shape (C, *features)."""
        classes = self.y.shape[-1]
        shape = (classes, *(1,) * (leading - 1))
        inputs = [x.new_zeros(shape + x.shape[leading:]).requires_grad_() for x in self.inputs]
        zeros = [cut.h.new_zeros(shape + cut.h.shape[leading:]) for cut in self.cuts]
        slopes: list[Tensor | None] = [None] * len(zeros)
        if isinstance(self.rule.chain, MeanLinear):
            slopes = [self.rule.chain.slope(cut.a.detach(), cut.f) for cut in self.cuts]
        with torch.enable_grad(), Emitter(zeros, slopes) as emitter:
            y = self.model(*inputs)
        unit = torch.eye(classes, dtype=y.dtype, device=y.device).view_as(y)
        quantities = [*inputs, *emitter.outputs]
        return list(torch.autograd.grad(y, quantities, unit, allow_unused=True, materialize_grads=True))


class _Local(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: _Pass, y: Tensor, *leaves: Tensor) -> Tensor:
        ctx.step = step
        return y.view_as(y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        step: _Pass = ctx.step
        rows = step.chain(g.dim() - 1)
        of_inputs = [
            _spread(g, row, x) if wanted else None
            for row, x, wanted in zip(rows, step.inputs, ctx.needs_input_grad[2:], strict=False)
        ]
        outputs, cotangents = [step.y], [g]
        for cut, row in zip(step.cuts, rows[len(of_inputs) :], strict=True):
            of_h = _spread(g, row, cut.h)
            if cut.a.requires_grad:
                outputs.append(cut.a)
                cotangents.append(vector_jacobian_product(cut.f, cut.a.detach(), of_h).to(cut.a.dtype))
            if cut.h.requires_grad:
                outputs.append(cut.h)
                cotangents.append(of_h)
        found = torch.autograd.grad(outputs, step.parameters, cotangents, allow_unused=True)
        return None, None, *of_inputs, *found


def _spread(g: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """sum_c g_{n,c} P_c for every sample, in the shape and dtype of `like`."""
    product = g.reshape(-1, g.shape[-1]).to(rows.dtype) @ rows.reshape(g.shape[-1], -1)
    return product.view(like.shape).to(like.dtype)
