"""A user's own model from `MODULE:FACTORY`, and inputs it runs on."""

from __future__ import annotations

import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

import linear_backprop as lb

_FORM = "give MODULE:FACTORY, such as my_models:make_net or my_package.nets:Net"


class OwnModelError(ValueError):
    """A model that cannot be had or run: what was given, what went wrong, what to give."""


@dataclass(frozen=True, eq=False)
class OwnModel:
    """A model and the arguments its `forward` is called with."""

    model: nn.Module
    inputs: tuple[Any, ...]


def own_model(target: str, input_shape: tuple[int, ...], seed: int = 0) -> OwnModel:
    """Import and build a user's model; modules in the working directory are found first.

    Args:
        target: `MODULE:FACTORY`. FACTORY is called without arguments and returns an `nn.Module`, or a pair
            of one and its input (a tensor, or a tuple of arguments). An `nn.Module` instance does, too.
        input_shape: Of the input, drawn from N(0, 1), where the factory gives none.
        seed: Of whatever the factory draws, and of the input.

    Raises:
        OwnModelError: `target` has another form, cannot be imported, or does not give a model; or no input of that
            shape can be had.
    """
    factory = _imported(target)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        made = factory if isinstance(factory, nn.Module) else _called(factory, target)
        model, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, _drawn(input_shape))
    if not isinstance(model, nn.Module):
        raise OwnModelError(f"{target} gives {type(model).__name__}, not an nn.Module; {_FORM}")
    if not isinstance(inputs, Tensor | tuple | list):
        raise OwnModelError(
            f"{target} gives a model and {type(inputs).__name__}; give its input, a tensor, or a tuple of arguments"
        )
    return OwnModel(model, (inputs,) if isinstance(inputs, Tensor) else tuple(inputs))


def converted(own: OwnModel, rule: lb.BackwardRule, where: list[str] | None) -> str:
    """The table of `lb.convert`, after one forward pass; the model is left as it was.

    Raises:
        OwnModelError: The model does not run on its inputs.
        LinearBackpropError: There is nothing to convert, or `where` selects nothing.
    """
    with lb.convert(own.model, rule, where) as conversion:
        try:
            own.model(*own.inputs)
        except lb.LinearBackpropError:
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(i.shape)) for i in own.inputs if isinstance(i, Tensor))
            raise OwnModelError(
                f"the model does not run on inputs of shape {shapes}: {error}; give --input-shape, or have the "
                "factory return a pair (model, inputs)"
            ) from error
        return str(conversion)


def collapsible(rule: lb.BackwardRule) -> lb.Linear | lb.MeanLinear | lb.LocallyExact:
    """The rule, if `lb.collapse` takes it.

    Raises:
        ValueError: It does not.
    """
    if not isinstance(rule, lb.Linear | lb.MeanLinear | lb.LocallyExact):
        raise ValueError(f"--collapse takes the rules Linear, MeanLinear and LocallyExact, got {rule!r}")
    return rule


def loss(output: Any) -> Tensor:
    """Half the mean square of the output, or of the first floating tensor in it.

    Raises:
        OwnModelError: There is none in it.
    """
    for part in _pytree.tree_leaves(output):
        if isinstance(part, Tensor) and part.is_floating_point():
            return part.square().mean() / 2
    raise OwnModelError(
        f"the model returns {type(output).__name__} without a floating tensor in it; "
        f"wrap it in a module that returns one"
    )


def _imported(target: str) -> Any:
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise OwnModelError(f"{target!r} is not a model; {_FORM}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise OwnModelError(f"cannot import {module_name!r}: {error}; {_FORM}") from error
    except Exception as error:
        raise OwnModelError(f"importing {module_name!r} raised {_named(error)}") from error
    finally:
        sys.path.remove(here)
    if not hasattr(module, name):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise OwnModelError(f"{module_name} has no {name!r}; it has {', '.join(known) or 'no callable at all'}")
    return getattr(module, name)


def _called(factory: Any, target: str) -> Any:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise OwnModelError(f"{target} cannot be called without arguments: {error}; {_FORM}") from error
    except ValueError:  # a builtin that does not say what it takes
        pass
    try:
        return factory()
    except Exception as error:
        raise OwnModelError(f"{target}() raised {_named(error)}") from error


def _drawn(shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.randn(shape)
    except (RuntimeError, OverflowError, TypeError) as error:  # too large, by bytes or by the sizes themselves
        reason = str(error).partition("\n")[0]
        raise OwnModelError(f"cannot draw an input of shape {shape}: {reason}; give a smaller --input-shape") from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
