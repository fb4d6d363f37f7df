"""PyTorch's fast paths through transformers, which it leaves where any torch function mode is around."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .functions import Function
from .modes import TorchFunctionMode, function_modes, without
from .modules import has_hooks
from .recording import in_plain_code

_WITH_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)


def keep_fast_paths(kind: type[TorchFunctionMode]) -> None:
    """Run PyTorch's transformers without the modes of a class where nothing in them can be differentiated.

    Their fast paths round differently, and write zeros where a sequence is padded.
    """
    for cls in _WITH_FAST_PATHS:
        cls.forward = _keeping_fast_paths(kind, cls.forward)


def _keeping_fast_paths(kind: type[TorchFunctionMode], forward: Function) -> Function:
    def call(self: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        watched = in_plain_code() and any(isinstance(mode, kind) for mode in function_modes())
        if not watched or _may_be_differentiated(self, tree_leaves((args, kwargs))):
            return forward(self, *args, **kwargs)
        with without(kind):
            return forward(self, *args, **kwargs)

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call(self, args, kwargs)

    # TorchScript reads the code of the original, and looks its names up among the globals of what it is given.
    return functools.wraps(forward)(FunctionType(run.__code__, forward.__globals__, closure=run.__closure__))


def _may_be_differentiated(module: nn.Module, given: list[Any]) -> bool:
    """True unless all its code is PyTorch's own, and nothing that it is given or holds takes a gradient."""
    if any(has_hooks(each) or not _is_pytorchs_own(each) for each in module.modules()):
        return True
    tensors = (*(each for each in given if isinstance(each, Tensor)), *module.parameters())
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _is_pytorchs_own(module: nn.Module) -> bool:
    """True for code of PyTorch's: a transformer's layer also runs the activation that it was given."""
    written_in = getattr(type(module).forward, "__module__", None) or ""
    return written_in.startswith("torch.nn.") and getattr(module, "activation_relu_or_gelu", 1) != 0
