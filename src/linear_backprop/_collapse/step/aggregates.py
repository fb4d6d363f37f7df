"""The sums over samples that a collapsed backward pass needs, and the combinations they are carried by.

The mathematics, and the letters, are those of `collapse.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from .workers import summed

# Measured in bfloat16 on MLPs and VGG19: from 2^-4 on, the error stays as it is.
_EXPONENT = -4


@dataclass(frozen=True)
class Aggregates:
    """Sums over samples, of fixed size.

    Attributes:
        rows: <z>_1 / s_1 ... <z>_C / s_C and the mean m, of every z side by side: shape (C + 1, all features).
        widths: The numbers of features.
        ones: <1>_c, shape (C,), in float32 at least, like all that follow.
        scale: s_c, shape (C,); 0 where no sample has a cotangent.
        weight: The sum of the samples' weights in m, shape (): sum_c |g_{n,c}| / s_c each, so that samples which the
            loss leaves out are left out of m, too, however large they are.
        share: What the gradients are multiplied with: 1, or 1 / workers for their mean.
    """

    rows: Tensor
    widths: tuple[int, ...]
    ones: Tensor
    scale: Tensor
    weight: Tensor
    share: float = 1.0

    @staticmethod
    def of(g: Tensor, quantities: Sequence[Tensor]) -> Aggregates:
        """The aggregates of one batch, given g of shape (N, C) and each z of shape (N, features)."""
        g = g.to(torch.promote_types(g.dtype, torch.float32))
        narrow = any(z.dtype == torch.float16 for z in quantities)
        scale = _scale(g, _EXPONENT + (math.log2(len(g)) / 2 if narrow else 0))
        scaled = (g / _nonzero(scale)).T
        weights = scaled.abs().sum(0, keepdim=True)
        weights = torch.where(weights.sum() == 0, 1, weights)
        weight = weights.sum()
        factors = torch.cat([scaled, weights / weight])
        widths = tuple(z.shape[1] for z in quantities)
        wide = functools.reduce(torch.promote_types, {z.dtype for z in quantities}, torch.float32)
        rows = torch.empty(len(factors), sum(widths), dtype=wide, device=g.device)
        cast = {z.dtype: factors.to(z.dtype) for z in quantities}
        for z, made in zip(quantities, rows.split(widths, 1), strict=True):
            if z.dtype == wide:
                torch.mm(cast[z.dtype], z, out=made)
            else:
                made.copy_(cast[z.dtype] @ z)
        return Aggregates(rows, widths, g.sum(0), scale, weight)

    def __add__(self, other: Aggregates) -> Aggregates:
        scale, weight = self.scale + other.scale, self.weight + other.weight
        return self._of_sums(self._sums() + other._sums(), self.ones + other.ones, scale, weight)

    def over(self, group: dist.ProcessGroup) -> Aggregates:
        """The sum over all workers of a group, in one message; the gradients become the mean over the workers."""
        total = self._of_sums(*summed([self._sums(), self.ones, self.scale, self.weight], group))
        return replace(total, share=1 / dist.get_world_size(group))

    def _sums(self) -> Tensor:
        """<z>_1 ... <z>_C and the weighted sum, of every z."""
        return self.rows * _column(self.scale, self.weight).to(self.rows.dtype)

    def _of_sums(self, sums: Tensor, ones: Tensor, scale: Tensor, weight: Tensor) -> Aggregates:
        rows = sums / _column(scale, weight).to(sums.dtype)
        return Aggregates(rows, self.widths, ones, scale, weight, self.share)

    def combinations(self) -> Sequence[Tensor]:
        """For every z, z~_1 ... z~_C and m: shape (C + 1, features)."""
        # z~_c = <z>_c / s_c + (1 - <1>_c / s_c) m
        of_mean = torch.cat([1 - self.ones / _nonzero(self.scale), self.ones.new_zeros(1)])
        return torch.addr(self.rows, of_mean.to(self.rows.dtype), self.rows[-1]).split(self.widths, 1)

    def cotangents(self) -> Tensor:
        """What the C + 1 outputs receive: s_c e_c each, and sum_c (<1>_c - s_c) e_c for the mean."""
        return torch.cat([self.scale.diag(), (self.ones - self.scale)[None]]) * self.share

    def spread(self, rows: Tensor, g: Tensor) -> Tensor:
        """Each sample's own cotangent, sum_c g_{n,c} P_c, from the rows s_c P_c of the combinations.

        Args:
            rows: Shape (C + 1, features): the cotangents that the combinations received.
            g: Shape (N, C).

        Returns:
            Shape (N, features).
        """
        wide = rows[:-1].to(torch.promote_types(rows.dtype, torch.float32))
        return g.to(wide.dtype) @ (wide / (_nonzero(self.scale) * self.share)[:, None].to(wide.dtype))


def _scale(g: Tensor, exponent: float) -> Tensor:
    """s_c: any positive number would do but for rounding.

    A combination is rounded relative to m + (<z>_c - <1>_c m) / s_c, and <z>_c is had from it times s_c. So s_c is
    chosen as small as the second term's own spread, the norm of g_c: then it is not lost beside m, and the error is
    the ordinary path's. In float16, which ends at 65,504, it is larger, so that a combination is not larger than 16
    times the largest sample. A power of two, so that it rounds to itself in every dtype.
    """
    if g.dtype == torch.float64:  # whose squares may leave its range
        top = _nonzero(g.abs().amax(0))
        norm = torch.linalg.vector_norm(g / top, dim=0)
        size = norm.log2() + top.log2()
    else:
        norm = torch.linalg.vector_norm(g, dim=0, dtype=torch.float64)
        size = norm.log2()
    return torch.where(norm > 0, torch.exp2((size + exponent).round()), 0).to(g.dtype)


def _column(scale: Tensor, weight: Tensor) -> Tensor:
    return torch.cat([_nonzero(scale), _nonzero(weight)[None]])[:, None]


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1, scale)
