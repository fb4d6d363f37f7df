"""What the two `autograd.Function`s that stand for a model have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor, fx
from torch.autograd.graph import get_gradient_edge

from ..._errors import CollapseError
from ..._torch.recording import reaches
from ..._torch.tensors import is_batched, is_view, storage_of
from ..captured.graph import Places


def outputs_apart(values: Sequence[Tensor]) -> list[Tensor]:
    """What an `autograd.Function` is to return, for whoever called to overwrite.

    Of those that share their memory autograd would not see that what is written into one changes the others: as views
    made in a function they are refused there.
    """
    storages = [storage_of(y) for y in values]
    shown = [y.detach() for y in values]
    return [y.view_as(y) if storages.count(s) > 1 else y for y, s in zip(shown, storages, strict=True)]


def require_one_cotangent(g: Sequence[Tensor | None]) -> None:
    """Refuse cotangents that stand for many.

    Raises:
        CollapseError: One does.
    """
    if any(is_batched(each) for each in g if each is not None):
        raise CollapseError("the collapsed backward pass takes one cotangent at a time (is_grads_batched=False)")


def connect_outputs(
    values: dict[fx.Node, Any], computed_from: Mapping[fx.Node, Sequence[fx.Node]], places: Places
) -> None:
    """Connect outputs with those that they are computed from, whose own gradient nobody computes, to refuse it.

    Args:
        values: Has them.
        computed_from: As of `captured.graph`.
        places: Names them.
    """
    for node, sources in computed_from.items():
        below = {places.name(n): z for n in sources if isinstance(z := values[n], Tensor) and z.requires_grad}
        if below and isinstance(values[node], Tensor) and values[node].requires_grad:
            watched = [(name, ref(z)) for name, z in below.items()]
            values[node] = _Above.apply(watched, torch.empty(0, requires_grad=True), values[node], *below.values())


class _Above(torch.autograd.Function):
    """An output that others are below: its own gradient goes on, and theirs is found to be missed.

    The probe is a leaf that nobody asks for: only `backward()`, which goes to all leaves, reaches it.
    """

    @staticmethod
    def forward(
        ctx: Any, watched: list[tuple[str, ref[Tensor]]], probe: Tensor, output: Tensor, *below: Tensor
    ) -> Tensor:
        ctx.watched, ctx.probe, ctx.count = watched, get_gradient_edge(probe).node, len(below)
        return output.view_as(output) if is_view(output) else output.detach()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_all_leaves = reaches(ctx.probe)
        for name, reference in ctx.watched:
            output = reference()
            if output is not None and (output.retains_grad or output._backward_hooks or not to_all_leaves):
                raise CollapseError(
                    f"{name} is an output that another one is computed from, and has a hook, or retain_grad(), or may "
                    f"be an input of torch.autograd.grad or backward(inputs=...): its own gradient is not computed in "
                    f"a collapsed backward pass. Call backward(), without these; or use lb.convert, or collapse only "
                    f"what lies above it (`where=`)"
                )
        return None, None, g, *[None] * ctx.count
