"""The bytes that autograd keeps between the forward and the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """The bytes of the storages that autograd saves for backward while `function` runs.

    A storage saved several times counts once; parameters and inputs that are saved count too, though they
    would be kept anyway.
    """
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that its own node held as it is would never be freed

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function(*args, **kwargs)
        held = sum(storages.values())
        del result
    return held
