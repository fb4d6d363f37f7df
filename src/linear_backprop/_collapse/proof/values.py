"""Random values in the place of real ones, for an operation to be tried on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from ..._torch.functions import is_of_pytorch
from ..captured.graph import name_of
from ..captured.layout import Form, Layout

_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-4, torch.complex64: 1e-4}
_ROUGH = 5e-2  # bfloat16 and float16
_MOST_DENSE = 2000  # samples


Scale = Callable[[Tensor], Tensor]
"""What becomes of numbers drawn from the normal distribution."""


def as_drawn(z: Tensor) -> Tensor:
    return z


def of_many_sizes(z: Tensor) -> Tensor:
    return z * 10 ** (6 * torch.rand(z.shape, generator=torch.Generator().manual_seed(0), dtype=z.dtype) - 3)


def small(z: Tensor) -> Tensor:
    """Half of them zero."""
    z = of_many_sizes(z) * 1e-9
    return torch.cat([torch.zeros_like(z.flatten()[: z.numel() // 2]), z.flatten()[z.numel() // 2 :]]).view_as(z)


def large(z: Tensor) -> Tensor:
    return z * 1e30


# A kink may lie far from zero, or two pieces meet where a sample is small.
SCALES: tuple[Scale, ...] = (as_drawn, of_many_sizes, small, large)


def not_a_number(z: Tensor) -> Tensor:
    return torch.full_like(z, torch.nan)


def infinite(z: Tensor) -> Tensor:
    return torch.where(z > 0, torch.inf, -torch.inf)


NOT_FINITE: tuple[Scale, ...] = (not_a_number, infinite)


def scaling(dtype: torch.dtype | None) -> tuple[float, ...]:
    """The sizes of cotangents to try: a kink of a backward pass may lie far from zero, too."""
    return (1e8, 1e-8) if dtype == torch.float64 else ()


def _shifted(k: Tensor) -> Tensor:
    return ~k if k.dtype == torch.bool else k + 1


def _reversed(k: Tensor) -> Tensor:
    return k.flip(tuple(range(k.dim())))


def _of_small_numbers(k: Tensor) -> Tensor:
    return torch.randint(-3, 4, k.shape, generator=torch.Generator().manual_seed(0)).to(k)


def for_all_alike(changed: Callable[[Tensor], Tensor], layout: Layout | None, k: Tensor) -> Tensor:
    """Integers that are the same for every sample, changed, and still the same."""
    if layout is None:
        return changed(k)
    form = Form.of(k)
    rows = layout.rows(k, form)
    return layout.like(changed(rows[:1]).expand_as(rows), form)


# Integers and masks that are no samples may be others tomorrow; a device other than the CPU fails for good on an index
# that is out of range.
INTEGERS: tuple[Callable[[Tensor], Tensor], ...] = (_reversed, _shifted, _of_small_numbers)


def mixing(number: int, of: int) -> Tensor:
    """Random weights of mixtures, which sum to one; of many samples each mixes three, as a sparse matrix."""
    generator = torch.Generator().manual_seed(0)
    mixes = of if of <= _MOST_DENSE else 3
    weights = torch.randn(number, mixes, generator=generator, dtype=torch.float64)
    weights = weights + (1 - weights.sum(1, keepdim=True)) / mixes
    if mixes == of:
        return weights
    columns = torch.randint(of, (number * mixes,), generator=generator)
    places = torch.stack([torch.arange(number).repeat_interleave(mixes), columns])
    return torch.sparse_coo_tensor(places, weights.flatten(), (number, of), check_invariants=False)


def mixed(weights: Tensor, layout: Layout, z: Tensor, like: Tensor) -> Tensor:
    """Mixtures of samples, in the shape of `like`; an infinity that all samples have stays what it is."""
    form = Form.of(z)
    rows = layout.rows(z.to(torch.complex128 if z.is_complex() else torch.float64), form)
    fixed = (rows.isinf() & (rows == rows[:1])).all(0)
    made = torch.where(fixed, rows[:1], weights.to(rows) @ rows.where(~fixed, 0.0))
    return layout.like(made if is_inexact(z) else made.round(), form._replace(shape=like.shape))


_FORMED_LIKE = {"type_as", "to", "expand_as", "view_as", "reshape_as"}


def reads_forms_alone(node: fx.Node, varied: Collection[fx.Node]) -> bool:
    """Whether an operation reads nothing of its samples but their forms: `x.new_zeros(...)`, `mask.expand_as(x)`."""
    name = name_of(node)
    if not is_of_pytorch(node.target):
        return False
    if name in _FORMED_LIKE:
        return node.args[0] not in varied
    return name.startswith("new_") or (name.endswith("_like") and not name.startswith("rand"))


def is_inexact(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def copied(value: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.detach().clone(), value)


def integers_changed(changed: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t if is_inexact(t) else changed(t), value)


def close(a: Tensor, b: Tensor, scale: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if not is_inexact(a):
        return torch.equal(a, b)
    if not a.numel():
        return True
    largest = max(_size(b), _size(scale), 1e-30)
    apart = torch.where(a == b, 0, a - b)  # two infinities are no distance apart
    return bool(apart.abs().max().item() <= _TOLERANCE.get(a.dtype, _ROUGH) * largest)


def _size(t: Tensor) -> float:
    """The largest of its finite values."""
    return t.abs().where(t.isfinite(), 0).max().item() if t.numel() else 0.0
