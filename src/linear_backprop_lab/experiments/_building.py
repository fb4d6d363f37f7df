"""From what a configuration says of a model to the model, and where it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from linear_backprop_lab.models import binarized_resnet18, vgg19


def build_model(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The untrained model for images of 3 x 32 x 32, the same weights for the same seed.

    Args:
        config: `name` ("vgg19" or "binarized-resnet18"), `activation` (a module of `torch.nn`), and the settings of
            the function of that name, as JSON values.
        seed: Of the weights; the generator is left as it was.
    """
    settings = {key: value for key, value in config.items() if key not in ("name", "activation")}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return _BUILDERS[config["name"]](activation=getattr(nn, config["activation"]), **settings)


def training_device() -> str:
    """`"cuda"` where there is one, else `"cpu"`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


_BUILDERS: dict[str, Callable[..., nn.Module]] = {"vgg19": vgg19, "binarized-resnet18": binarized_resnet18}
