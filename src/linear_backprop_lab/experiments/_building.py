"""From what a configuration says of a model to the model, and where it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from linear_backprop_lab.models import mlp, residual, vgg19


def build_model(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The model of a configuration, its weights drawn from `seed`.

    Args:
        config: `name`, `activation` (a class of `torch.nn`), and the other arguments of the model's function.
        seed: Of the initial weights; the generator is left as it was.
    """
    settings = {key: value for key, value in config.items() if key not in ("name", "activation")}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return _BUILDERS[config["name"]](activation=getattr(nn, config["activation"]), **settings)


def training_device() -> str:
    """`"cuda"` where there is one, else `"cpu"`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _flat_mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """An MLP that reads images: `flatten`, then `layers`."""
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    model.add_module("layers", mlp(widths, activation))
    return model


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": _flat_mlp, "vgg19": vgg19, "residual": residual}
