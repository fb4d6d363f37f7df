"""Where a tensor keeps its samples, and combinations of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Form(NamedTuple):
    """What is to be known of a tensor to make one like it, of other samples.

    How it lies in memory decides whether `reshape` and `contiguous` make a view of it or a copy.

    Attributes:
        shape: Its shape.
        dtype: Its dtype.
        order: Its dimensions as they lie in memory, the outermost first.
        strides: Where it has gaps, or entries that share their memory, its strides; None for neither.
    """

    shape: torch.Size
    dtype: torch.dtype
    order: tuple[int, ...]
    strides: tuple[int, ...] | None

    @staticmethod
    def of(z: Tensor) -> Form:
        """The form of z."""
        order = memory_order(z)
        return Form(z.shape, z.dtype, order, None if z.permute(order).is_contiguous() else z.stride())

    def lay(self, z: Tensor) -> Tensor:
        """Values of this form, of any number of samples, as it lies: with its gaps where samples are the outermost.

        Samples that share their memory get some of their own, a gap behind each.
        """
        if self.strides is None or self.order[0] != 0:
            return in_memory_order(z, self.order)
        of_sample = zip(self.shape[1:], self.strides[1:], strict=True)
        extent = 1 + sum((size - 1) * stride for size, stride in of_sample)
        return strided(z, (self.strides[0] or extent + 1, *self.strides[1:]))

    def relaid(self, z: Tensor) -> Tensor:
        """z itself if it lies in this order, else a tensor of its own that does."""
        if memory_order(z) == self.order:
            return z
        return torch.empty_permuted(z.shape, self.order, dtype=z.dtype, device=z.device).copy_(z)


@dataclass(frozen=True)
class Layout:
    """One dimension of a tensor holds the samples: `before` times N times `after` entries, in this order.

    `torch.stack(branches)` puts them into dimension 1, flattened tokens into 0 with the tokens `after`, images of
    both halves of a pair, concatenated along the batch, `before`.

    Attributes:
        dim: The dimension.
        before: How many times the batch is repeated there.
        after: How many entries of one sample lie beside each other there.
        positions: How many samples, for the backward pass, one of the batch's is: its positions, if all are
            treated alike (dimension 0 then holds them too, and so may those that follow).
    """

    dim: int = 0
    before: int = 1
    after: int = 1
    positions: int = 1

    def rows(self, z: Tensor, form: Form | None = None) -> Tensor:
        """The samples as rows: shape (N * positions, features); a view where strides allow.

        Args:
            z: Keeps its samples here.
            form: Whose order the features get; z's own by default.
        """
        if self.positions > 1:
            return z.reshape(z.shape[0] * self.positions // self.after, -1)
        order = memory_order(z) if form is None else form.order
        if self._is_outermost(order):
            return z.permute(order).reshape(len(z), -1)
        samples = z.shape[self.dim] // (self.before * self.after)
        split = z.unflatten(self.dim, (self.before, samples, self.after))
        return split.movedim(self.dim + 1, 0).reshape(samples, -1)

    def like(self, rows: Tensor, form: Form) -> Tensor:
        """Rows as a tensor that keeps its samples here; the form gives all but their number, and the order."""
        rows, shape = rows.to(form.dtype), form.shape
        if self.positions > 1:
            return in_memory_order(rows.reshape(-1, *shape[1:]), form.order)
        if self._is_outermost(form.order):
            lying = rows.reshape(len(rows), *(shape[dim] for dim in form.order[1:]))
            return lying.permute(*(form.order.index(dim) for dim in range(len(shape))))
        rest = (*shape[: self.dim], self.before, self.after, *shape[self.dim + 1 :])
        placed = rows.reshape(len(rows), *rest).movedim(0, self.dim + 1).flatten(self.dim, self.dim + 2)
        return in_memory_order(placed, form.order)

    def _is_outermost(self, order: Sequence[int]) -> bool:
        """Whether the samples are the outermost dimension, in memory, too: rows are a view then."""
        return self.dim == 0 and self.before == self.after == 1 and order[0] == 0

    def place(self, rows: Tensor, form: Form, pad: float | None = None) -> Tensor:
        """`like`, for any number of rows, and as the form lies.

        They make whole samples, two at least, with copies of the last, or `pad`.
        """
        missing = self.whole_samples(len(rows)) * self.positions - len(rows)
        if missing > 0:
            last = rows[-1:].expand(missing, -1) if pad is None else rows.new_full((missing, rows.shape[1]), pad)
            rows = torch.cat([rows, last])
        return form.lay(self.like(rows, form))

    def whole_samples(self, rows: int) -> int:
        """The number of samples that so many rows are placed in: two at least, since `squeeze()` drops one."""
        return max(2, -(-rows // self.positions))

    def width(self, shape: torch.Size) -> int:
        """The number of features of a sample in a tensor of some shape."""
        samples = shape[0] * self.positions // self.after if self.positions > 1 else self.batch(shape)
        return shape.numel() // samples

    def of_sample(self, form: Form) -> tuple[int, ...]:
        """What of a sample's shape and order decides in which order `rows` has its features."""
        if self.positions > 1:
            return (self.width(form.shape),)
        order = form.order if self._is_outermost(form.order) else range(len(form.shape))
        sizes = (self.before * self.after if dim == self.dim else form.shape[dim] for dim in order)
        return tuple(size for size in sizes if size != 1)

    def batch(self, shape: torch.Size) -> int:
        """The number of samples of the batch in a tensor of some shape."""
        return shape[self.dim] // (self.before * self.after)


def candidates(first: Sequence[int], second: Sequence[int], sizes: tuple[int, int]) -> Iterator[Layout]:
    """The layouts that a tensor may have, from its shapes in batches of two sizes; none if it holds no samples.

    Args:
        first: Its shape in a batch of `sizes[0]` samples.
        second: In one of `sizes[1]`.
        sizes: Different numbers.
    """
    if len(first) != len(second):
        return
    differing = [dim for dim, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if len(differing) != 1:
        return
    (dim,) = differing
    repeats, rest = divmod(first[dim], sizes[0])
    if rest or not repeats or second[dim] != repeats * sizes[1]:
        return
    divisors = [n for n in range(1, repeats + 1) if repeats % n == 0]
    for before in [1, *divisors[:0:-1]]:
        yield Layout(dim, before, repeats // before)


def of_positions(shape: Sequence[int], batch: int, sizes: Sequence[int]) -> Layout | None:
    """The layout of a tensor in which every position counts as a sample; None if its shape has no such samples.

    Args:
        shape: Its shape, (batch, *sizes, ...) or (batch * positions, ...).
        batch: N.
        sizes: The sizes of a sample's positions, in the outputs.
    """
    positions = math.prod(sizes)
    if tuple(shape[: 1 + len(sizes)]) == (batch, *sizes):
        return Layout(positions=positions)
    if len(shape) and shape[0] == batch * positions:
        return Layout(after=positions, positions=positions)
    return None


def memory_order(z: Tensor) -> tuple[int, ...]:
    """The dimensions of a tensor in the order in which they lie in memory, the outermost first."""
    dims = tuple(range(z.dim()))
    if z.is_contiguous() or 0 in z.stride():
        return dims
    return tuple(sorted(dims, key=lambda dim: -z.stride(dim)))


def in_memory_order(z: Tensor, order: Sequence[int]) -> Tensor:
    """The values of a tensor without gaps, its dimensions in some order in memory: views are possible as there."""
    return z.permute(*order).contiguous().permute(*(order.index(dim) for dim in range(z.dim())))


def strided(values: Tensor, strides: Sequence[int]) -> Tensor:
    """The values with some strides; entries that share their memory then are one."""
    sizes = [1 if stride == 0 else size for size, stride in zip(values.shape, strides, strict=True)]
    once = values[tuple(slice(0, size) for size in sizes)]
    try:
        return values.new_empty_strided(sizes, strides).copy_(once).expand(values.shape)
    except RuntimeError:  # entries overlap otherwise
        return values


def clone(z: Tensor) -> Tensor:
    """A copy that lies as z does; `torch.clone` closes gaps."""
    return Form.of(z).lay(z.clone())
