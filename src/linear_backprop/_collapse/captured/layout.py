"""Where a tensor keeps its samples, and combinations of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Form(NamedTuple):
    """What is to be known of a tensor to make one like it, of other samples."""

    shape: torch.Size
    dtype: torch.dtype
    is_channels_last: bool

    @staticmethod
    def of(z: Tensor) -> Form:
        """The form of z."""
        return Form(z.shape, z.dtype, _is_channels_last(z))


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
        if self.dim == 0 and self.before == self.after == 1:
            channels_last = _is_channels_last(z) if form is None else form.is_channels_last
            z = z.permute(0, 2, 3, 1) if channels_last else z
            return z.reshape(len(z), -1)
        samples = z.shape[self.dim] // (self.before * self.after)
        split = z.unflatten(self.dim, (self.before, samples, self.after))
        return split.movedim(self.dim + 1, 0).reshape(samples, -1)

    def like(self, rows: Tensor, form: Form) -> Tensor:
        """Rows as a tensor that keeps its samples here; the form gives all sizes but their number, and the dtype."""
        rows, shape = rows.to(form.dtype), form.shape
        if self.positions > 1:
            return rows.reshape(-1, *shape[1:])
        if self.dim == 0 and self.before == self.after == 1:
            if form.is_channels_last:
                return rows.view(len(rows), *shape[2:], shape[1]).permute(0, 3, 1, 2)
            return rows.view(len(rows), *shape[1:])
        rest = (*shape[: self.dim], self.before, self.after, *shape[self.dim + 1 :])
        return rows.reshape(len(rows), *rest).movedim(0, self.dim + 1).flatten(self.dim, self.dim + 2)

    def place(self, rows: Tensor, form: Form, pad: float | None = None) -> Tensor:
        """`like`, for any number of rows: they make whole samples, two at least, with copies of the last, or `pad`."""
        missing = self.whole_samples(len(rows)) * self.positions - len(rows)
        if missing > 0:
            last = rows[-1:].expand(missing, -1) if pad is None else rows.new_full((missing, rows.shape[1]), pad)
            rows = torch.cat([rows, last])
        return self.like(rows, form)

    def whole_samples(self, rows: int) -> int:
        """The number of samples that so many rows are placed in: two at least, since `squeeze()` drops one."""
        return max(2, -(-rows // self.positions))

    def width(self, shape: torch.Size) -> int:
        """The number of features of a sample in a tensor of some shape."""
        samples = shape[0] * self.positions // self.after if self.positions > 1 else self.batch(shape)
        return shape.numel() // samples

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


def memory_order(z: Tensor) -> list[int]:
    """The dimensions of a tensor in the order in which they lie in memory, the outermost first."""
    dims = list(range(z.dim()))
    return dims if 0 in z.stride() else sorted(dims, key=lambda dim: -z.stride(dim))


def in_memory_order(z: Tensor, order: Sequence[int]) -> Tensor:
    """The values of a tensor without gaps, its dimensions in some order in memory: views are possible as there."""
    return z.permute(*order).contiguous().permute(*(order.index(dim) for dim in range(z.dim())))


def _is_channels_last(z: Tensor) -> bool:
    return z.dim() == 4 and not z.is_contiguous() and z.is_contiguous(memory_format=torch.channels_last)
