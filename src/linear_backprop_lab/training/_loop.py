"""The one training loop of the lab: SGD or Adam on images, a line of metrics and a checkpoint an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.records import Run

from ._batches import Normalizer, random_crop_and_flip

_EVALUATION_BATCH = 1000


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
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: bool = True
    seed: int = 0

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)

    def steps(self, images: int) -> int:
        """How many steps training on `images` images takes."""
        return self.epochs * math.ceil(images / self.batch_size)


def train(
    model: nn.Module,
    data: ImageDataset,
    recipe: Recipe,
    run: Run,
    *,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], object] = lambda step: None,
) -> None:
    """Train `model` in place by cross-entropy and close `run`, going on where a killed attempt stopped.

    Every epoch logs `epoch` (from 1), `train_loss` and `train_accuracy` (means over the epoch's batches,
    as the weights were at each), `test_loss` and `test_accuracy` (after the epoch) and `seconds`;
    accuracies are top-1, in [0, 1]. A loss that is not finite is logged as null and ends the run with
    `status="diverged"` in its closing record: a result, not an error. On the CPU a resumed run ends with
    the same bits as one never disturbed, the number of threads being the same.

    Args:
        model: Maps float32 (N, 3, 32, 32) to logits (N, C); a rule is in it already, or it is plain.
        data: Images as uint8 and labels as int64.
        recipe: How to train.
        run: Where to record it; not complete.
        device: Where to train.
        on_step: Called after every step with the number of steps done, those of killed attempts included.

    Raises:
        RunError: The run is complete already, or its checkpoint cannot be read.
    """
    device = torch.device(device)
    model.to(device)
    optimizer = recipe.optimizer_for(model)
    images, labels = data.train_images.to(device), data.train_labels.to(device)
    normalize = Normalizer(images)
    test_images, test_labels = data.test_images.to(device), data.test_labels.to(device)
    diverged = False

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        epochs_done = _start_or_resume(run, model, optimizer, device)
        step = epochs_done * math.ceil(len(images) / recipe.batch_size)

        for epoch in range(epochs_done + 1, recipe.epochs + 1):
            started = time.perf_counter()
            totals = torch.zeros(2, dtype=torch.float64, device=device)
            model.train()
            for chosen in torch.randperm(len(images)).split(recipe.batch_size):
                batch, targets = images[chosen.to(device)], labels[chosen.to(device)]
                if recipe.augment:
                    batch = random_crop_and_flip(batch)
                logits = model(normalize(batch))
                loss = F.cross_entropy(logits, targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                totals += _loss_and_hits(logits.detach(), targets)
                step += 1
                on_step(step)
            train_loss, train_accuracy = (totals / len(images)).tolist()
            test_loss, test_accuracy = _evaluate(model, normalize, test_images, test_labels)
            diverged = not (math.isfinite(train_loss) and math.isfinite(test_loss))
            run.log(
                epoch=epoch,
                train_loss=_finite(train_loss),
                train_accuracy=train_accuracy,
                test_loss=_finite(test_loss),
                test_accuracy=test_accuracy,
                seconds=time.perf_counter() - started,
            )
            if diverged:
                break
            run.save_checkpoint(
                model=model.state_dict(), optimizer=optimizer.state_dict(), epoch=epoch, **_generators(device)
            )

    run.close(source=data.source, **_closing_record(run.metrics, diverged))


def _start_or_resume(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> int:
    """Begin the run, or put back what its checkpoint holds; returns how many epochs are done."""
    checkpoint = run.resume()
    if checkpoint is None:
        run.start()
        return 0
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    torch.set_rng_state(checkpoint["generator"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(checkpoint["device_generator"], device)
    run.keep_metrics(checkpoint["epoch"])
    return checkpoint["epoch"]


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"generator": torch.get_rng_state()}
    if device.type == "cuda":
        states["device_generator"] = torch.cuda.get_rng_state(device)
    return states


@torch.no_grad()
def _evaluate(model: nn.Module, normalize: Normalizer, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and top-1 accuracy in evaluation mode."""
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=images.device)
    for batch, targets in zip(images.split(_EVALUATION_BATCH), labels.split(_EVALUATION_BATCH), strict=True):
        totals += _loss_and_hits(model(normalize(batch)), targets)
    loss, accuracy = (totals / len(images)).tolist()
    return loss, accuracy


def _loss_and_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """(2,) float64: the summed cross-entropy, and how many samples the largest logit has right."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss.double(), (logits.argmax(dim=1) == labels).sum().double()])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _closing_record(metrics: list[dict[str, Any]], diverged: bool) -> dict[str, Any]:
    return {
        "status": "diverged" if diverged else "finished",
        "epochs": len(metrics),
        "test_accuracy": metrics[-1]["test_accuracy"],
        "best_test_accuracy": max(line["test_accuracy"] for line in metrics),
        "seconds": sum(line["seconds"] for line in metrics),
    }
