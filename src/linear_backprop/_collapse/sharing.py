"""A module that stands for another one, whose parameters, buffers, modules, mode and data are its own."""

from __future__ import annotations

import inspect
from typing import Any, Self

from torch import nn


class Sharing(nn.Module):
    """A module that stands for another one.

    Attributes:
        model: The other one.
    """

    model: nn.Module

    def share(self, model: nn.Module) -> None:
        """Stand for a model, from now on: with the very same dictionaries, so that what either changes, both have."""
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self.__dict__["model"] = model

    def __getattr__(self, name: str) -> Any:
        """The model's own attribute; of its methods, which would run the model as it is, none."""
        if name.startswith("_") or "model" not in self.__dict__:
            return super().__getattr__(name)
        value = getattr(self.model, name)
        if inspect.ismethod(value):
            raise AttributeError(
                f"{name}() is a method of the model and would run it as it is, not collapsed; call .model.{name}() "
                f"where that is meant, and let the model's forward do what is to be collapsed"
            )
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set the model's own attribute, where it is one of the model's."""
        of_model = "model" in self.__dict__ and not (name in self.__dict__ or hasattr(type(self), name))
        if of_model and not name.startswith("_") and hasattr(self.model, name):
            setattr(self.model, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def training(self) -> bool:  # pyright: ignore
        """The model's mode."""
        return self.model.training

    @training.setter
    def training(self, mode: bool) -> None:  # pyright: ignore
        if "model" in self.__dict__:  # nn.Module sets it first
            self.model.training = mode

    def train(self, mode: bool = True) -> Self:
        """Set training mode on the model."""
        self.model.train(mode)
        return self
