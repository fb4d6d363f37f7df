"""The sums over samples that a collapsed backward pass needs, and the combinations they are carried by.

The mathematics, and the letters, are those of `collapse.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from .affine import mix
from .replay import Recorded
from .workers import averaged, summed

# Measured in bfloat16 on MLPs and VGG19: from 2^-4 on, the error stays as it is.
_EXPONENT = -4.0


@dataclass(frozen=True)
class Aggregates:
    """Sums over samples, of fixed size.

    Attributes:
        sums: For every z, <z>_1 ... <z>_C and the plain sum, shape (C + 1, *features), in float32 at least.
        ones: <1>_c, shape (C,).
        scale: s_c, shape (C,).
        count: N, shape ().
        share: What the gradients are multiplied with: 1, or 1 / workers for their mean.
    """

    sums: list[Tensor]
    ones: Tensor
    scale: Tensor
    count: Tensor
    share: float = 1.0

    @staticmethod
    def of(g: Tensor, quantities: Sequence[Tensor]) -> Aggregates:
        """The aggregates of one batch, given g of shape (*samples, C) and each z of shape (*samples, *features)."""
        leading = g.dim() - 1
        g = g.reshape(-1, g.shape[-1]).to(torch.promote_types(g.dtype, torch.float32))
        scale = _scale(g)
        # Weights of moderate size, so that the products stay in range in half precision; scaled back in full.
        weights = torch.cat([g / _nonzero(scale), torch.full_like(g[:, :1], 1 / len(g))], dim=1).T
        back = torch.cat([scale, torch.full_like(scale[:1], len(g))])
        products = [mix(weights, z, leading) for z in quantities]
        sums = [p.to(torch.promote_types(p.dtype, torch.float32)) * _column(back, p) for p in products]
        return Aggregates(sums, g.sum(0), scale, torch.full_like(scale[0], len(g)))

    def __add__(self, other: Aggregates) -> Aggregates:
        sums = [ours + theirs for ours, theirs in zip(self.sums, other.sums, strict=True)]
        return Aggregates(sums, self.ones + other.ones, self.scale + other.scale, self.count + other.count)

    def over(self, group: dist.ProcessGroup) -> Aggregates:
        """The sum over all workers of a group, in one message; the gradients become the mean over the workers."""
        *sums, ones, scale, count = summed([*self.sums, self.ones, self.scale, self.count], group)
        return replace(self, sums=sums, ones=ones, scale=scale, count=count, share=1 / dist.get_world_size(group))

    def combinations(self) -> list[Tensor]:
        """For every z, z~_1 ... z~_C and m: shape (C + 1, *features)."""
        return [self._combine(z) for z in self.sums]

    def _combine(self, z: Tensor) -> Tensor:
        mean = z[-1:] / self.count.to(z.dtype)
        centred = z[:-1] - _column(self.ones, z) * mean
        return torch.cat([mean + centred / _column(_nonzero(self.scale), z), mean])

    def cotangents(self) -> Tensor:
        """What the C + 1 outputs receive: s_c e_c each, and sum_c (<1>_c - s_c) e_c for the mean."""
        return torch.cat([self.scale.diag(), (self.ones - self.scale)[None]]) * self.share

    def spread(self, rows: Tensor, g: Tensor, like: Tensor) -> Tensor:
        """Each sample's own cotangent, sum_c g_{n,c} P_c, from the rows s_c P_c of the combinations.

        Args:
            rows: Shape (C + 1, *features): the cotangents that the combinations received.
            g: Shape (*samples, C).
            like: Its shape, (*samples, *features), and dtype are the result's.
        """
        maps = rows[:-1] / _column(_nonzero(self.scale) * self.share, rows)
        return spread(maps, g, like)


def spread(maps: Tensor, g: Tensor, like: Tensor) -> Tensor:
    """sum_c g_{n,c} P_c for every sample n, in the shape and dtype of `like`; maps holds P_1 ... P_C."""
    product = g.reshape(-1, g.shape[-1]).to(maps.dtype) @ maps.reshape(g.shape[-1], -1)
    return product.view(like.shape).to(like.dtype)


def mean_slopes(seen: Sequence[Recorded], group: dist.ProcessGroup) -> list[Recorded]:
    """The same, every slope the mean over the workers of a group, in one message."""
    slopes = [each.slope for each in seen if each.slope is not None]
    if not slopes:
        return list(seen)
    means = iter(averaged(slopes, group))
    return [each if each.slope is None else replace(each, slope=next(means)) for each in seen]


def _scale(g: Tensor) -> Tensor:
    """s_c: any positive number would do but for rounding.

    A combination is rounded relative to m + (<z>_c - <1>_c m) / s_c, and <z>_c is had from it times s_c. So s_c is
    chosen as small as the second term's own spread, the norm of g_c: then it is not lost beside m, and the error is
    the ordinary path's. A power of two, so that it rounds to itself in every dtype.
    """
    norm = g.square().sum(0).sqrt()
    return torch.where(norm > 0, torch.exp2(norm.log2().round() + _EXPONENT), 0)


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1, scale)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
