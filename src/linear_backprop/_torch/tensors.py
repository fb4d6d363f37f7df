"""What a tensor is: its memory, its version, its class, what it stands for."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import torch
from torch import Tensor


def storage_of(tensor: Tensor) -> int:
    """The identity of a tensor's memory, which it shares with its views."""
    return tensor.untyped_storage()._cdata  # pyright: ignore


def version_of(tensor: Tensor) -> int:
    """The number of times the tensor was written in place."""
    return tensor._version


def is_view(tensor: Tensor) -> bool:
    """True where the tensor is a view of another."""
    return tensor._is_view()


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many, under `vmap` or `is_grads_batched`."""
    functorch = torch._C._functorch  # pyright: ignore
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def unwrapped_if_dead(tensor: Tensor) -> Tensor:
    """A tensor without the wrapper of a `torch.func` transform that has ended."""
    return torch._C._functorch.unwrap_if_dead(tensor)  # pyright: ignore
