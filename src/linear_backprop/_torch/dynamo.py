"""Dynamo, which captures the graphs of the collapse, and what it leaves out of those of compiled code."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext
from torch.fx.experimental import _config as _symbolic_shapes

from .functions import Function

_TORCH = str(Path(torch.__file__).parent)


@contextmanager
def counting_samples(samples: Sequence[Tensor], given: Sequence[Tensor]) -> Generator[None]:
    """A context in which Dynamo knows that the first dimension of samples differs from call to call, and no other.

    What a user told it of any of the given tensors (`torch._dynamo.mark_dynamic`, `mark_static`) holds again behind it.
    """
    tensors = {id(x): x for x in given}.values()
    told = [(x, {name: vars(x).pop(name) for name in _told_of(x)}) for x in tensors]
    for x in samples:
        torch._dynamo.maybe_mark_dynamic(x, 0)
    try:
        yield
    finally:
        for x, marks in told:
            for name in _told_of(x):
                delattr(x, name)
            vars(x).update(marks)


def _told_of(x: Tensor) -> list[str]:
    return [name for name in vars(x) if name.startswith(("_dynamo", "_has_dynamo"))]


def one_is_a_size_like_others() -> AbstractContextManager[Any]:
    """A context in which Dynamo takes a first dimension of 1 for one of many sizes."""
    return _symbolic_shapes.patch(backed_size_oblivious=True)  # pyright: ignore


def size_guards() -> list[Any]:
    """What the graph that Dynamo is handing over takes for granted of its symbolic sizes: SymPy expressions.

    But for what only chooses among a convolution's kernels.
    """
    context = TracingContext.get()
    shapes = context.fake_mode.shape_env if context.fake_mode is not None else None
    return [] if shapes is None else [g.expr for g in shapes.guards if " in conv)" not in str(g.sloc)]


def traced_classes() -> set[type]:
    """The classes whose methods the graph that Dynamo hands over is made of, but for PyTorch's own and local ones."""
    traced = TracingContext.get_traced_code() or ()
    codes = [code for code in traced if "<locals>" not in code.co_qualname and not code.co_filename.startswith(_TORCH)]
    by_file: dict[str, list[Any]] = {}
    for module in list(sys.modules.values()):
        by_file.setdefault(getattr(module, "__file__", None) or "", []).append(module)
    found: set[type] = set()
    for code in codes:
        *path, _ = code.co_qualname.split(".")
        for owner in (*by_file.get(code.co_filename, ()), sys.modules["__main__"]) if path else ():
            for name in path:
                owner = getattr(owner, name, None)
            if isinstance(owner, type):
                found.add(owner)
    return found


def size_expression(size: Any) -> Any:
    """A size, or a number made of sizes, as SymPy has it; a plain number as it is."""
    return size.node.expr if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) else size


MOST_GRAPHS = 64
"""How many graphs of one function are kept, for sequences of different lengths, say."""

_CAPTURING = {
    "skip_nnmodule_hook_guards": False,
    "optimize_ddp": False,
    "invalidate_compile_context_weakrefs": True,  # which would stand in the way of swapping parameters
    "recompile_limit": MOST_GRAPHS,
    "accumulated_recompile_limit": MOST_GRAPHS,
}


@contextmanager
def capturing_whole() -> Generator[None]:
    """A context in which Dynamo captures anew once a module's hooks change, in one graph in DDP, and every Function.

    Of an `autograd.Function` it would inline `forward`, and lose `backward`, where a tensor came to require grad by
    being written into: it remembers what the tensor was when it was made.
    """
    from torch._dynamo.variables.misc import AutogradFunctionVariable as Applied

    call_apply = Applied.call_apply

    def call_apply_to_what_requires_grad(self: Any, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        Applied.visit(_look_again, (args, kwargs))
        return call_apply(self, tx, args, kwargs)

    Applied.call_apply = call_apply_to_what_requires_grad
    try:
        with torch._dynamo.config.patch(_CAPTURING):
            yield
    finally:
        Applied.call_apply = call_apply


def _look_again(variable: Any) -> None:
    """Note that a tensor requires grad by now."""
    if variable.is_tensor() and variable.as_proxy().node.meta["example_value"].requires_grad:
        variable.requires_grad = True


def dynamo_errors() -> Any:
    """The module of Dynamo's errors. Dynamo takes seconds to load, and is not needed but by `collapse`."""
    from torch._dynamo import exc

    return exc


def run_as_written(function: Any) -> Any:
    """Keep Dynamo from compiling a function, and what it calls, by itself; in a caller that it traces, it traces it.

    After a graph broke, Dynamo compiles whatever frame runs next. That of a mode's `__torch_function__` is not worth
    it, and came out wrong: on PyTorch 2.13 it returned numbers of Dynamo's own in the place of tensors.
    """
    dynamo: Any = torch._C._dynamo.eval_frame  # pyright: ignore[reportAttributeAccessIssue]
    skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.SKIP)
    dynamo.set_code_exec_strategy(function.__code__, skip)
    return function


def let_enter(mode: AbstractContextManager[Any]) -> None:
    """Have Dynamo, which is tracing, allow a mode to be entered in what is checkpointed.

    Once it has been entered there, Dynamo no longer takes it for an effect on what is outside.
    """
    with_effects_outside(_enter_and_leave, mode)


def _enter_and_leave(mode: AbstractContextManager[Any]) -> None:
    with mode:
        pass


def with_effects_outside(function: Function, *args: Any) -> None:
    """Call a function that has effects outside of what is checkpointed, which Dynamo, as it traces, is to allow."""
    torch._dynamo.utils._disable_side_effect_safety_checks_for_current_subtracer(function, *args)


def tell_modes_when_compiled(functions: Iterable[Function]) -> None:
    """Have Dynamo tell modes of functions' calls, as PyTorch itself does.

    It tells those that `torch.overrides` lists, where `torch.relu_` and all of its kind are missing, and `F.tanh`, and
    kernels that `torch.nn.functional` does not share.
    """
    listed = torch.overrides.get_overridable_functions()
    missing = {f for f in functions if isinstance(f, BuiltinFunctionType | FunctionType)}.difference(*listed.values())
    listed[torch].extend(missing)
    if (dynamo := sys.modules.get("torch._dynamo.variables.torch")) is not None:  # which may have read the list
        dynamo.get_overridable_functions().update(missing)


def recorded(a: Tensor) -> Tensor:
    """a, to hand to an autograd Function: Dynamo leaves one out where it knows of no input that requires grad.

    What it knows of a tensor is of when it was made, before a view of it was overwritten: of a view it asks again.
    """
    return a.view_as(a) if torch.compiler.is_compiling() else a
