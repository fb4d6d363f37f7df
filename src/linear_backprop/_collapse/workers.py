"""Sums and means over the workers of a process group."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor


def summed(parts: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Every part's sum over the workers, in one message of the widest of their dtypes."""
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    message = torch.cat([part.to(dtype).flatten() for part in parts])
    dist.all_reduce(message, group=group)
    pieces = message.split([part.numel() for part in parts])
    return [piece.view_as(part).to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]


def averaged(parts: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Every part's mean over the workers, in one message."""
    return [total / dist.get_world_size(group) for total in summed(parts, group)]
