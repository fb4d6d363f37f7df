"""What a module holds, and who is told of what it computes."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as of_all_modules

# The classes that PyTorch's own normalizations by batch, and its dropouts, share.
BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._BatchNorm
DROPOUT: type[nn.Module] = nn.modules.dropout._DropoutNd

_OF_ALL_MODULES: tuple[dict[int, Any], ...] = (
    of_all_modules._global_forward_pre_hooks,
    of_all_modules._global_forward_hooks,
    of_all_modules._global_backward_pre_hooks,
    of_all_modules._global_backward_hooks,
)


def children_of(module: nn.Module) -> list[nn.Module | None]:
    """The modules just below a module, in order."""
    return list(module._modules.values())


def has_parameters(module: nn.Module) -> bool:
    """True where the module has parameters of its own; several times as fast as `module.parameters(recurse=False)`."""
    return bool(module._parameters)


def is_bare(module: nn.Module) -> bool:
    """True if the module has no modules below it and no tensors of its own."""
    return not (module._modules or module._parameters or module._buffers)


def is_compiled(module: nn.Module) -> bool:
    """True for what `torch.compile` makes of a module."""
    return hasattr(module, "_orig_mod")


def has_hooks(module: nn.Module) -> bool:
    """True where a hook is told of what this very module computes."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def global_module_hooks() -> list[Any]:
    """The hooks on all modules."""
    return [list(hooks.items()) for hooks in _OF_ALL_MODULES]


def modules_are_watched() -> bool:
    """True where a trace, a dispatch mode or a hook on all modules is told of what modules compute."""
    return bool(torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack() or any(map(len, _OF_ALL_MODULES)))


def replica_of(module: nn.Module) -> nn.Module:
    """What `nn.DataParallel` puts on another device in the module's place, still without tensors."""
    return type(module)._replicate_for_data_parallel(module)  # pyright: ignore
