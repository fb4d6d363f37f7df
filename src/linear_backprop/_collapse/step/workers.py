"""Sums and means over the workers of a process group."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from ..._errors import CollapseError


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


def require_same(
    outputs: Sequence[Sequence[bool]], parameters: Sequence[str], group: dist.ProcessGroup, device: torch.device
) -> None:
    """Refuse backward passes whose sums or means would be taken for one another or not fit.

    Args:
        outputs: Which outputs received a cotangent, in each backward pass to be summed.
        parameters: Those whose gradients are averaged.
        group: The workers.
        device: Where they communicate.

    Raises:
        CollapseError: On every worker.
    """
    marks = [crc32(repr(what).encode()) for what in ([[*each] for each in outputs], [*parameters])]
    largest = torch.tensor([marks, [-mark for mark in marks]], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    other_outputs, other_parameters = largest.sum(0).tolist()
    if other_outputs:
        raise CollapseError(
            "the workers' losses read different outputs of the model, in another order, or a different number of "
            "micro-batches with weights made anew in each (a parametrization): let all read the same; "
            "`+ 0 * output.sum()` reads one"
        )
    if other_parameters:
        raise CollapseError(
            "other parameters take gradients on other workers, and have no mean over all: freeze the same on every one"
        )
