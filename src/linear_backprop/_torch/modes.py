"""Torch function modes: who is told of what is called."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode as TorchFunctionMode
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._contextlib import context_decorator as context_decorator

# A context in which no `backward_rule` block, nor any other torch function mode, sees what is called.
unseen_by_modes = torch._C.DisableTorchFunction


def function_modes() -> Sequence[TorchFunctionMode]:
    """The torch function modes that see what is called, the innermost last."""
    return _get_current_function_mode_stack()


@contextmanager
def without(kind: type[TorchFunctionMode]) -> Generator[None]:
    """A context in which the function modes of a class see nothing, and all others what they saw."""
    every = function_modes()
    others = [mode for mode in every if not isinstance(mode, kind)]
    _exchange(every, others)
    try:
        yield
    finally:
        _exchange(others, every)


def _exchange(these: Sequence[TorchFunctionMode], those: Sequence[TorchFunctionMode]) -> None:
    if len(these) != len(those):
        for _ in these:
            _pop_mode()
        for mode in those:
            _push_mode(mode)
