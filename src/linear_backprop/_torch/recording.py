"""What autograd, its transforms and activation checkpointing record of what is called."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import Node
from torch.utils.checkpoint import CheckpointFunction, _CheckpointFrame

from .functions import Function

_checkpointed: ContextVar[bool] = ContextVar("checkpointed", default=False)


def transforms_active() -> bool:
    """True under `torch.func` or forward-mode differentiation; never while compiling."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def in_plain_code() -> bool:
    """True where code runs as it is written: neither compiled nor transformed."""
    return not (torch.compiler.is_compiling() or transforms_active())


def is_recorded() -> bool:
    """True where what is called gets a backward pass: now, or when activation checkpointing runs it again."""
    return torch.is_grad_enabled() or transforms_active() or _checkpointed.get()


def is_traced() -> bool:
    """True while `torch.jit.trace` or `torch.export` records what is called."""
    return bool(torch._C._get_tracing_state()) or torch.compiler.is_exporting()


def autocast_of(device: torch.device) -> tuple[bool, torch.dtype]:
    """The state of autocast on a device's type: enabled or not, and its dtype."""
    if not torch.amp.is_autocast_available(device.type):
        return False, torch.float32
    return torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)


def saved_tensors_may_have_hooks() -> bool:
    """False under `disable_saved_tensors_hooks`, where there are none and none may be set."""
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # pyright: ignore


def graph_is_kept() -> bool:
    """True where the backward pass under way was asked to keep the graph."""
    return torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore


def reaches(node: Node) -> bool:
    """Whether the backward pass under way goes to a leaf's node: `backward()` does, to all; others where asked to."""
    return torch._C._will_engine_execute_node(node)


def wrap_recomputed(wrap: Callable[[Function, Callable[[], bool]], Function]) -> None:
    """Let `wrap` take whatever `torch.utils.checkpoint` is going to run again, before it runs for the first time.

    PyTorch offers no other place where both forms of checkpointing can be told of the blocks around them, a
    `context_fn` by the caller excepted.

    Args:
        wrap: Given the function, and what is true as long as its first run is under way.
    """
    _wrap_reentrant(wrap)
    initialize = _CheckpointFrame.__init__

    @functools.wraps(initialize)
    def initialize_wrapped(self: _CheckpointFrame, recompute_fn: Function, *args: Any, **kwargs: Any) -> None:
        this = weakref.ref(self)  # gone where nothing is recorded, or the first run has failed

        def is_first_run() -> bool:
            frame = this()
            return frame is not None and not frame.forward_completed

        initialize(self, wrap(recompute_fn, is_first_run), *args, **kwargs)

    _CheckpointFrame.__init__ = initialize_wrapped


def _wrap_reentrant(wrap: Callable[[Function, Callable[[], bool]], Function]) -> None:
    forward = CheckpointFunction.forward

    @functools.wraps(forward)
    def forward_wrapped(ctx: Any, *args: Any) -> Any:
        under_way = True
        again = wrap(args[0], lambda: under_way)
        token = _checkpointed.set(True)
        try:
            outputs = forward(ctx, *args)
        finally:
            under_way = False
            _checkpointed.reset(token)
        ctx.run_function = again
        return outputs

    CheckpointFunction.forward = staticmethod(forward_wrapped)  # pyright: ignore[reportAttributeAccessIssue]
