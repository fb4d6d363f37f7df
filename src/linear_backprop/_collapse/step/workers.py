"""Sums and means over the workers of a process group."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter, functional

from ..._errors import CollapseError
from ..captured.layout import memory_order

_SOME = 1024
# Of what is compared, relative to its size: replicas may drift apart by rounding.
_MOST_APART = 1e-3


def summed(parts: Sequence[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Every part's sum over the workers, in one message of the widest of their dtypes."""
    dtype = reduce(torch.promote_types, (part.dtype for part in parts))
    message = torch.cat([part.to(dtype).flatten() for part in parts])
    dist.all_reduce(message, group=group)
    pieces = message.split([part.numel() for part in parts])
    return [piece.view_as(part).to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]


def averaged(parts: Sequence[Tensor], group: dist.ProcessGroup, counts: Sequence[int] = ()) -> list[Tensor]:
    """Every part's mean over the workers, in one message.

    Args:
        parts: This worker's.
        group: The workers.
        counts: Of how many values each part is a mean itself, where that is not the same on all workers.
    """
    if not counts:
        return [total / dist.get_world_size(group) for total in summed(parts, group)]
    sums = [part * count for part, count in zip(parts, counts, strict=True)]
    *totals, total_counts = summed([*sums, torch.tensor(counts, device=parts[0].device, dtype=torch.float64)], group)
    return [total / count.to(total.dtype) for total, count in zip(totals, total_counts, strict=True)]


def averaged_if_any(
    parts: Sequence[Tensor | None], likes: Sequence[Tensor], group: dist.ProcessGroup, device: torch.device
) -> list[Tensor | None]:
    """Every part's mean over the workers, zero for those that have none; None where no worker has one.

    Args:
        parts: This worker's.
        likes: Of their shapes and dtypes.
        group: The workers.
        device: Where they communicate.
    """
    if not parts:
        return []
    flags = torch.tensor([int(part is not None) for part in parts], device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group)
    found = flags.tolist()
    dense = [
        torch.zeros_like(like, device=device) if part is None else part
        for part, like, any_has in zip(parts, likes, found, strict=True)
        if any_has
    ]
    means = iter(averaged(dense, group) if dense else ())
    return [next(means) if any_has else None for any_has in found]


def require_same(
    outputs: object, parameters: object, maps: object, group: dist.ProcessGroup, device: torch.device
) -> None:
    """Refuse backward passes whose sums or means would be taken for one another or not fit.

    All workers send a message of one size, whatever they are about to send next.

    Args:
        outputs: Which outputs received a cotangent, in each backward pass to be summed.
        parameters: Those whose gradients are averaged.
        maps: What tells the linear map: its operations, and the shapes of what it takes.
        group: The workers.
        device: Where they communicate.

    Raises:
        CollapseError: On every worker.
    """
    marks = [crc32(repr(what).encode()) for what in (outputs, parameters, maps)]
    largest = torch.tensor([marks, [-mark for mark in marks]], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    other_outputs, other_parameters, other_maps = largest.sum(0).tolist()
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
    if other_maps:
        raise CollapseError(
            "the model does something else on other workers: other operations (layers left out at random, another "
            "mode or argument), or samples of another shape, dtype or order in memory. Their aggregates cannot be "
            "added up: let all do the same, pad samples to one size, or leave out process_group and use DDP"
        )


def require_same_values(
    tensors: Sequence[Tensor], names: Sequence[str], group: dist.ProcessGroup, device: torch.device
) -> None:
    """Refuse linear maps that other workers have with other values.

    Of each tensor up to 1,024 entries are compared, by their sum with fixed weights.

    Args:
        tensors: What the map is made of beside the samples: as many on every worker.
        names: Theirs, for the error.
        group: The workers.
        device: Where they communicate.

    Raises:
        CollapseError: On every worker.
    """
    if not tensors:
        return
    some = torch.stack([_some_of(tensor).to(device) for tensor in tensors])
    sums = some @ _weights(device)
    largest = torch.stack([sums, -sums, torch.linalg.vector_norm(some, dim=1)])
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    spread, size = largest[0] + largest[1], largest[2]
    if differing := [
        name for name, differs in zip(names, (spread > _MOST_APART * size).tolist(), strict=True) if differs
    ]:
        raise CollapseError(
            f"{', '.join(differing[:3])}: not the same values on all workers, and aggregates "
            f"cannot be added up under different ones: begin with the same parameters and buffers (load or broadcast "
            f"them), draw what is random with the same seed, or leave out process_group and use DDP"
        )


@lru_cache
def _weights(device: torch.device) -> Tensor:
    return torch.arange(_SOME, dtype=torch.float64).square().cos().to(device)


def _some_of(tensor: Tensor) -> Tensor:
    """Up to 1,024 of its entries in float64, zeros behind them; none of a tensor that other workers hold a part of."""
    if type(tensor) not in (Tensor, Parameter):
        return torch.zeros(_SOME, dtype=torch.float64)
    flat = tensor.detach().permute(memory_order(tensor)).reshape(-1)
    flat = torch.view_as_real(flat).flatten() if flat.is_complex() else flat
    some = flat[:: -(-len(flat) // _SOME) or 1].double().nan_to_num()
    return functional.pad(some, (0, _SOME - len(some)))
