"""PyTorch's functions, kernels and operators, and those of others."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch._ops import HigherOrderOperator as HigherOrderOperator

Function = Callable[..., Any]

# All overloads of a kernel, under one name.
KernelPacket = torch._ops.OpOverloadPacket

# The namespaces of PyTorch's kernels, by which `torch` and `torch.nn.functional` reach them.
KERNELS: tuple[Any, ...] = (torch._C._nn, torch.ops.aten)  # pyright: ignore

# The namespaces of PyTorch's own operators, but for those that begin with an underscore.
_OF_PYTORCH = frozenset({"aten", "prim", "prims", "c10d", "fsdp", "symm_mem", "profiler"})

# `torch.batch_norm` calls it and returns its first result; the next two are the statistics.
batch_norm_and_statistics: Callable[..., tuple[Tensor, ...]] = torch._batch_norm_impl_index  # pyright: ignore

# What a captured graph sets its modes with.
SET_GRAD_ENABLED: Function = torch._C._set_grad_enabled
ENTER_AUTOCAST: Function = torch.amp.autocast_mode._enter_autocast
EXIT_AUTOCAST: Function = torch.amp.autocast_mode._exit_autocast

# The argument that is a function to call, of those that modes are told of: of checkpointing, by Dynamo alone.
CALLED_BACK: dict[Function, str] = {
    torch.nn.functional.triplet_margin_with_distance_loss: "distance_function",
    torch.utils.checkpoint.checkpoint: "function",
}


def overloads_of(packet: Any) -> list[Function]:
    """The kernels of one name that take a tensor, but for those that write into an argument `out`."""
    kernels = [getattr(packet, name) for name in packet.overloads()]
    return [kernel for kernel in kernels if _takes_a_tensor(kernel._schema.arguments)]


def _takes_a_tensor(arguments: Sequence[Any]) -> bool:
    return bool(arguments) and str(arguments[0].type) == "Tensor" and not any(each.is_out for each in arguments)


def is_custom_operator(function: Any) -> bool:
    """True for an operator of another library than PyTorch's own, as `torch.library` registers them."""
    if isinstance(function, KernelPacket):
        namespace = function._qualified_op_name.partition("::")[0]
    elif isinstance(function, torch._ops.OpOverload):
        namespace = function.namespace
    else:
        return False
    return namespace not in _OF_PYTORCH and not namespace.startswith("_")


def is_of_pytorch(function: Any) -> bool:
    """Whether what a graph calls is PyTorch's own, or Python's, and no `torch.library.custom_op` or the like."""
    module = getattr(function, "__module__", None) or "torch"
    return module.split(".")[0] in ("torch", "_operator", "builtins", "math") and not is_custom_operator(function)


def is_transform(function: Any) -> bool:
    """Whether a function belongs to the machinery of `torch.func`."""
    return str(getattr(function, "__module__", "")).startswith(("torch._C._functorch", "torch._functorch"))
