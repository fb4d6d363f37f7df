"""From what a configuration says of a model to the model, and where it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from linear_backprop_lab.models import binarized_resnet18, bottleneck, inverted_residual, mlp, plain, residual, vgg19


def build_model(config: Mapping[str, Any], seed: int) -> nn.Module:
    """The untrained model for images of 3 x 32 x 32, the same weights for the same seed.

    Args:
        config: `name` (a key of `_BUILDERS`), `activation` (a module of `torch.nn`),
            and the settings of the function of that name, as JSON values.
        seed: Of the weights; the generator is left as it was.
    """
    settings = {key: value for key, value in config.items() if key not in ("name", "activation")}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return _BUILDERS[config["name"]](activation=getattr(nn, config["activation"]), **settings)


def training_device() -> str:
    """`"cuda"` where there is one, else `"cpu"`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def has_fast_bfloat16() -> bool:
    """Whether matrices of bfloat16 are multiplied by the hardware here; elsewhere they take many times as long."""
    capabilities = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def _flat_mlp(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """An MLP that reads images: `flatten`, then `layers`."""
    model = nn.Sequential()
    model.add_module("flatten", nn.Flatten())
    model.add_module("layers", mlp(widths, activation))
    return model


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _flat_mlp,
    "vgg19": vgg19,
    "residual": residual,
    "plain": plain,
    "bottleneck": bottleneck,
    "inverted-residual": inverted_residual,
    "binarized-resnet18": binarized_resnet18,
}
