"""PyTorch's private interfaces in one place: the file to read again with every new version of PyTorch."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import TracingContext
from torch._ops import HigherOrderOperator as HigherOrderOperator
from torch.autograd import forward_ad
from torch.fx.experimental import _config as _symbolic_shapes
from torch.nn.modules import module as of_all_modules
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode, _push_mode
from torch.utils._contextlib import context_decorator as context_decorator
from torch.utils.checkpoint import CheckpointFunction, _CheckpointFrame

Function = Callable[..., Any]

# The namespaces of PyTorch's kernels, by which `torch` and `torch.nn.functional` reach them.
KernelPacket = torch._ops.OpOverloadPacket
KERNELS: tuple[Any, ...] = (torch._C._nn, torch.ops.aten)  # pyright: ignore


def overloads_of(packet: Any) -> list[Function]:
    """The kernels of one name that take a tensor, but for those that write into an argument `out`."""
    kernels = [getattr(packet, name) for name in packet.overloads()]
    return [kernel for kernel in kernels if _takes_a_tensor(kernel._schema.arguments)]


def _takes_a_tensor(arguments: Sequence[Any]) -> bool:
    return bool(arguments) and str(arguments[0].type) == "Tensor" and not any(each.is_out for each in arguments)


def is_custom_operator(function: Any) -> bool:
    """True for an operator of another library than PyTorch's own, as `torch.library` registers them."""
    if isinstance(function, KernelPacket):
        name = function._qualified_op_name
    elif isinstance(function, torch._ops.OpOverload):
        name = function.namespace
    else:
        return False
    return not name.startswith(("_", "c10d", "fsdp", "symm_mem", "aten", "prim"))


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


@contextmanager
def counting_samples(tensors: Sequence[Tensor]) -> Generator[None]:
    """A context in which Dynamo knows that the first dimension of these tensors differs from call to call."""
    before = {id(x): (x, set(vars(x))) for x in tensors}
    for x, _ in before.values():
        torch._dynamo.maybe_mark_dynamic(x, 0)
    try:
        yield
    finally:
        for x, names in before.values():
            for name in vars(x).keys() - names:
                if name.startswith(("_dynamo", "_has_dynamo")):
                    delattr(x, name)


def size_guards() -> list[Any]:
    """What the graph that Dynamo is handing over takes for granted of its symbolic sizes: SymPy expressions.

    But for what only chooses among a convolution's kernels.
    """
    context = TracingContext.get()
    shapes = context.fake_mode.shape_env if context.fake_mode is not None else None
    return [] if shapes is None else [g.expr for g in shapes.guards if " in conv)" not in str(g.sloc)]


def size_expression(size: Any) -> Any:
    """A size, or a number made of sizes, as SymPy has it; a plain number as it is."""
    return size.node.expr if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) else size


# Dynamo's settings; with the last it keeps no weak references, which stand in the way of swapping parameters.
_CAPTURING = {"skip_nnmodule_hook_guards": False, "optimize_ddp": False, "invalidate_compile_context_weakrefs": True}


@contextmanager
def capturing_whole() -> Generator[None]:
    """A context in which Dynamo captures anew once a module's hooks change, in one graph in DDP, and every Function.

    Of an `autograd.Function` it would inline `forward`, and lose `backward`, where a tensor came to require grad by
    being written into: it remembers what the tensor was when it was made.
    """
    from torch._dynamo.variables.misc import AutogradFunctionVariable as Applied

    config, call_apply = torch._dynamo.config, Applied.call_apply
    before = {name: getattr(config, name) for name in _CAPTURING if hasattr(config, name)}

    def call_apply_to_what_requires_grad(self: Any, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        Applied.visit(_look_again, (args, kwargs))
        return call_apply(self, tx, args, kwargs)

    for name in before:
        setattr(config, name, _CAPTURING[name])
    Applied.call_apply = call_apply_to_what_requires_grad
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)
        Applied.call_apply = call_apply


def _look_again(variable: Any) -> None:
    """Note that a tensor requires grad by now."""
    if variable.is_tensor() and variable.as_proxy().node.meta["example_value"].requires_grad:
        variable.requires_grad = True


def dynamo_errors() -> Any:
    """The module of Dynamo's errors. Dynamo takes seconds to load, and is not needed but by `collapse`."""
    from torch._dynamo import exc

    return exc


def is_batched(tensor: Tensor) -> bool:
    """Whether a tensor stands for many, under `vmap` or `is_grads_batched`."""
    functorch = torch._C._functorch  # pyright: ignore
    return functorch.is_batchedtensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def is_of_pytorch(function: Any) -> bool:
    """Whether what a graph calls is PyTorch's own, or Python's, and no `torch.library.custom_op` or the like."""
    module = getattr(function, "__module__", None) or "torch"
    return module.split(".")[0] in ("torch", "_operator", "builtins", "math") and not is_custom_operator(function)


def unwrapped_if_dead(tensor: Tensor) -> Tensor:
    """A tensor without the wrapper of a `torch.func` transform that has ended."""
    return torch._C._functorch.unwrap_if_dead(tensor)  # pyright: ignore


def is_transform(function: Any) -> bool:
    """Whether a function belongs to the machinery of `torch.func`."""
    return str(getattr(function, "__module__", "")).startswith(("torch._C._functorch", "torch._functorch"))


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


_checkpointed: ContextVar[bool] = ContextVar("checkpointed", default=False)


def is_recorded() -> bool:
    """True where what is called gets a backward pass: now, or when activation checkpointing runs it again."""
    return torch.is_grad_enabled() or transforms_active() or _checkpointed.get()


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


def children_of(module: nn.Module) -> list[nn.Module | None]:
    """The modules just below a module, in order."""
    return list(module._modules.values())


def has_parameters(module: nn.Module) -> bool:
    """True where the module has parameters of its own; several times as fast as `module.parameters(recurse=False)`."""
    return bool(module._parameters)


def replica_of(module: nn.Module) -> nn.Module:
    """What `nn.DataParallel` puts on another device in the module's place, still without tensors."""
    return type(module)._replicate_for_data_parallel(module)  # pyright: ignore


def is_bare(module: nn.Module) -> bool:
    """True if the module has no modules below it and no tensors of its own."""
    return not (module._modules or module._parameters or module._buffers)


def run_as_written(function: Any) -> Any:
    """Keep Dynamo from compiling a function, and what it calls, by itself; in a caller that it traces, it traces it.

    After a graph broke, Dynamo compiles whatever frame runs next. That of a mode's `__torch_function__` is not worth
    it, and came out wrong: on PyTorch 2.13 it returned numbers of Dynamo's own in the place of tensors.
    """
    dynamo: Any = torch._C._dynamo.eval_frame  # pyright: ignore[reportAttributeAccessIssue]
    skip = dynamo._FrameExecStrategy(dynamo._FrameAction.SKIP, dynamo._FrameAction.SKIP)
    dynamo.set_code_exec_strategy(function.__code__, skip)
    return function


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


def is_traced() -> bool:
    """True while `torch.jit.trace` or `torch.export` records what is called."""
    return bool(torch._C._get_tracing_state()) or torch.compiler.is_exporting()


def is_compiled(module: nn.Module) -> bool:
    """True for what `torch.compile` makes of a module."""
    return hasattr(module, "_orig_mod")
