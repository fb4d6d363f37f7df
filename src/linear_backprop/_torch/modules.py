"""What a module holds, and who is told of what it computes."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import module as of_all_modules
from torch.nn.modules.lazy import LazyModuleMixin

# The classes that PyTorch's own normalizations by batch, its norms with running statistics, and its dropouts share.
BATCH_NORM: type[nn.Module] = nn.modules.batchnorm._BatchNorm
RUNNING_NORM: type[nn.Module] = nn.modules.batchnorm._NormBase
DROPOUT: type[nn.Module] = nn.modules.dropout._DropoutNd

# The `__call__` that PyTorch gives to every module, whatever somebody has set in its place.
PYTORCHS_CALL: Any = nn.Module._wrapped_call_impl

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


def as_it_runs(module: nn.Module) -> nn.Module:
    """A lazy module as one of the class that its first run makes of it, sharing its attributes; any other as it is."""
    becomes = module.cls_to_become if isinstance(module, LazyModuleMixin) else None
    if becomes is None:
        return module
    view: nn.Module = object.__new__(becomes)
    object.__setattr__(view, "__dict__", vars(module))
    return view


def replica_of(module: nn.Module) -> nn.Module:
    """What `nn.DataParallel` puts on another device in the module's place, still without tensors."""
    return type(module)._replicate_for_data_parallel(module)  # pyright: ignore


def modules_that_train(model: nn.Module, path: str = "") -> Iterator[str]:
    """The paths of the modules that are in training mode, "" being the model's own.

    A model that `torch.export` made says that it is, for good, and refuses `eval()`: what counts is the mode in which
    it was exported, and its calls have that as an argument.
    """
    if isinstance(model, fx.GraphModule) and "train" in vars(model):
        trains, below = any(map(_is_call_in_training, model.graph.nodes)), ()
    else:
        trains, below = model.training, model.named_children()
    if trains:
        yield path
    for name, module in below:
        yield from modules_that_train(module, f"{path}.{name}" if path else name)


def _is_call_in_training(node: fx.Node) -> bool:
    """True for a call of a kernel that has `train=True`, or another name that PyTorch's kernels have for it."""
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = {**dict(zip((each.name for each in schema.arguments), node.args, strict=False)), **node.kwargs}
    return any(given.get(name) is True for name in ("train", "training", "use_input_stats"))


def differs_in_training(module: nn.Module) -> bool:
    """True for a module of PyTorch's in training mode that counts the batch or draws at random."""
    if isinstance(module, RUNNING_NORM):
        return module.training and (isinstance(module, BATCH_NORM) or module.track_running_stats is True)
    drops: Any = getattr(module, "p" if isinstance(module, DROPOUT) else "dropout", None)
    return module.training and (isinstance(module, nn.RReLU) or (isinstance(drops, float | int) and drops > 0))
