"""The works that the benchmarks of the collapsed backward pass share: models, batches, and one training step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop_lab.models import mlp, residual, vgg19

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Work:
    """A model, its input's shape and the rules of its layers."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    layers: tuple[lb.LayerRule, ...] = ()

    def model(self) -> nn.Module:
        """The model, the same at every call."""
        torch.manual_seed(0)
        return self.build().to(DEVICE)

    def batch(self, samples: int, classes: int = 10) -> tuple[Tensor, Tensor]:
        """Inputs and labels drawn at random."""
        torch.manual_seed(1)
        return torch.randn(samples, *self.shape, device=DEVICE), torch.randint(classes, (samples,), device=DEVICE)


MLP = Work("MLP 784-4x1024-10", lambda: mlp((784, 1024, 1024, 1024, 1024, 10), nn.ReLU), (784,))
VGG = Work(
    "VGG19, average pooling",
    lambda: vgg19(activation=nn.ReLU, batch_norm=False, pooling="average"),
    (3, 32, 32),
)
RESIDUAL = Work(
    "residual convnet, constant-statistics batch norm",
    lambda: residual((64, 128, 256), blocks=2, normalization="batch"),
    (3, 32, 32),
    (lb.ConstantStatistics(),),
)


def step(run: Run, x: Tensor, target: Tensor, bf16: bool = False) -> None:
    """Forward, cross-entropy, backward."""
    with autocast(bf16):
        loss = F.cross_entropy(run(x), target)
    loss.backward()


def forward_only(run: Run, x: Tensor, target: Tensor, bf16: bool = False) -> None:
    """Forward and cross-entropy without a graph."""
    with torch.no_grad(), autocast(bf16):
        F.cross_entropy(run(x), target)


def autocast(bf16: bool) -> Any:
    """A context of bfloat16, or of nothing."""
    return torch.autocast(DEVICE, torch.bfloat16) if bf16 else nullcontext()
