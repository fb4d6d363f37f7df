"""PyTorch's private interfaces in one place: the file to read again with every new version of PyTorch."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.exc import BackendCompilerFailed as BackendCompilerFailed
from torch._dynamo.exc import FailOnRecompileLimitHit as FailOnRecompileLimitHit
from torch._dynamo.exc import TorchDynamoException as TorchDynamoException
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch.autograd import forward_ad
from torch.fx.experimental import _config as _symbolic_shapes
from torch.nn.modules import module as of_all_modules
from torch.overrides import _get_current_function_mode_stack

Function = Callable[..., Any]

# A context in which no `backward_rule` block, nor any other torch function mode, sees what is called.
unseen_by_modes = torch._C.DisableTorchFunction

# `torch.batch_norm` calls it and returns its first result; the next two are the statistics.
batch_norm_and_statistics: Callable[..., tuple[Tensor, ...]] = torch._batch_norm_impl_index  # pyright: ignore

# The classes that PyTorch's own normalizations by batch, its norms with running statistics, and its dropouts share.
BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._BatchNorm
RUNNING_NORM: type[nn.Module] = nn.modules.batchnorm._NormBase
DROPOUT: type[nn.Module] = nn.modules.dropout._DropoutNd

# What a captured graph sets its modes with.
SET_GRAD_ENABLED: Function = torch._C._set_grad_enabled
ENTER_AUTOCAST: Function = torch.amp.autocast_mode._enter_autocast
EXIT_AUTOCAST: Function = torch.amp.autocast_mode._exit_autocast


def counts_samples(tensor: Tensor) -> None:
    """Tell Dynamo that the first dimension of a tensor differs from call to call."""
    torch._dynamo.maybe_mark_dynamic(tensor, 0)


def one_is_a_size_like_others() -> AbstractContextManager[Any]:
    """A context in which Dynamo takes a first dimension of 1 for one of many sizes."""
    return _symbolic_shapes.patch(backed_size_oblivious=True)  # pyright: ignore


def storage_of(tensor: Tensor) -> int:
    """The identity of a tensor's memory, which it shares with its views."""
    return tensor.untyped_storage()._cdata  # pyright: ignore


def transforms_active() -> bool:
    """True under `torch.func` or forward-mode differentiation; never while compiling."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def in_plain_code() -> bool:
    """True where code runs as it is written: neither compiled nor transformed."""
    return not (torch.compiler.is_compiling() or transforms_active())


def graph_is_kept() -> bool:
    """True where the backward pass under way was asked to keep the graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore


def dispatches_itself(tensor: Tensor) -> bool:
    """True for a tensor of a class that decides what PyTorch's functions return for it: its own class, most often."""
    if type(tensor) is Tensor or not torch._C._is_torch_function_enabled():
        return False
    return type(tensor).__torch_function__ is not torch._C._disabled_torch_function_impl


def version_of(tensor: Tensor) -> int:
    """The number of times the tensor was written in place."""
    return tensor._version


def is_view(tensor: Tensor) -> bool:
    """True where the tensor is a view of another."""
    return tensor._is_view()


def function_modes() -> Sequence[object]:
    """The torch function modes that see what is called, the innermost last."""
    return _get_current_function_mode_stack()


def modules_are_watched() -> bool:
    """True where a trace, a dispatch mode or a hook on all modules is told of what modules compute."""
    return bool(
        torch._C._get_tracing_state()
        or torch._C._len_torch_dispatch_stack()
        or of_all_modules._global_forward_hooks
        or of_all_modules._global_forward_pre_hooks
        or of_all_modules._global_backward_hooks
        or of_all_modules._global_backward_pre_hooks
    )


def has_hooks(module: nn.Module) -> bool:
    """True where a hook is told of what this very module computes."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def has_parameters(module: nn.Module) -> bool:
    """True where the module has parameters of its own; several times as fast as `module.parameters(recurse=False)`."""
    return bool(module._parameters)


def is_compiled(module: nn.Module) -> bool:
    """True for what `torch.compile` makes of a module."""
    return hasattr(module, "_orig_mod")
