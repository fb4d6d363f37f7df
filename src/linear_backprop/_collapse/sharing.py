"""A module that stands for another one, whose parameters, buffers, modules, mode and data are its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

# What is done with a model's data and never runs it: the model's class may do it in a way of its own.
_DONE_BY_THE_MODEL = (
    *("state_dict", "load_state_dict", "_load_from_state_dict"),
    *("parameters", "named_parameters", "buffers", "named_buffers"),
    *("get_submodule", "get_parameter", "get_buffer"),
    *("train", "eval", "requires_grad_", "zero_grad"),
    *("_apply", "to", "to_empty", "cpu", "cuda", "float", "double", "half", "bfloat16", "type"),
)
# What `nn.Module` keeps of a model, but for its modules: `del model[-1]` puts those elsewhere, so they are asked for.
_KEPT_BY_THE_MODEL = (
    *("_parameters", "_buffers", "_non_persistent_buffers_set"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


class Sharing(nn.Module):
    """A module that stands for another one.

    Attributes:
        uncollapsed: The other one.
    """

    uncollapsed: nn.Module

    def _share(self, model: nn.Module) -> None:
        """Stand for a model, from now on: with the very same dictionaries, so that what either changes, both have."""
        vars(self).update({name: getattr(model, name) for name in _KEPT_BY_THE_MODEL}, uncollapsed=model)
        del vars(self)["_modules"]

    def __getattr__(self, name: str) -> Any:
        """The model's own attribute; of its methods, which would run the model as it is, none."""
        if "uncollapsed" not in self.__dict__ or (name.startswith("_") and name != "_modules"):
            return super().__getattr__(name)
        value = getattr(self.uncollapsed, name)
        if inspect.ismethod(value):
            raise AttributeError(
                f"{name}() is a method of the model and would run it as it is, not collapsed; call "
                f".uncollapsed.{name}() where that is meant, and let the model's forward do what is to be collapsed"
            )
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the model's own attribute, where it is one of the model's; a module always is."""
        if name == "uncollapsed":
            raise AttributeError("a collapsed model stands for one model for good: collapse the other one")
        if "uncollapsed" in self.__dict__ and not (name in self.__dict__ or hasattr(type(self), name)):
            if isinstance(value, nn.Module) or (not name.startswith("_") and hasattr(self.uncollapsed, name)):
                return setattr(self.uncollapsed, name, value)
        return super().__setattr__(name, value)

    @property
    def training(self) -> bool:  # pyright: ignore
        """The model's mode."""
        return self.uncollapsed.training

    @training.setter
    def training(self, mode: bool) -> None:  # pyright: ignore
        if "uncollapsed" in self.__dict__:  # nn.Module sets it first
            self.uncollapsed.training = mode


def _done_by_the_model(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(nn.Module, name))
    def method(self: Sharing, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self.uncollapsed, name)(*args, **kwargs)
        return self if result is self.uncollapsed else result

    return method


for _name in _DONE_BY_THE_MODEL:
    setattr(Sharing, _name, _done_by_the_model(_name))
