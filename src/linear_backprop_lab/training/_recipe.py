"""How a model is trained, as values that a run's configuration can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; JSON values all, so that a run's configuration can hold them.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step; the last batch of an epoch takes what is left.
        learning_rate: Constant, as in the paper.
        optimizer: "sgd", the paper's, or "adam" with PyTorch's other constants.
        momentum: Of SGD; 0 is the paper's vanilla SGD.
        weight_decay: The factor of the l2 penalty, on every parameter.
        augment: Whether training images are cropped and mirrored at random.
        seed: Of the order of the images, the augmentation and whatever the model draws.
        precision: "float32", or "bf16": forward pass and loss under autocast to bfloat16.
        channels_last: Whether images and convolutions lie channels last in memory; on a CPU, VGG19's step takes
            0.65 to 0.85 of the time then, and tensor cores want it, too.
        compile: Whether the model's training is compiled, on a GPU into CUDA graphs.
        diagnostics: Whether every epoch ends with a look at the layers on a fixed batch, see `train`.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: bool = True
    seed: int = 0
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    diagnostics: bool = False

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def steps(self, images: int) -> int:
        """How many steps training on `images` images takes."""
        return self.epochs * math.ceil(images / self.batch_size)
