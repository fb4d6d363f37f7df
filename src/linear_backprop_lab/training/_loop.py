"""The one training loop of the lab: SGD or Adam on images, a line of metrics and a checkpoint an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models import latent_weights
from linear_backprop_lab.records import Run

from ._batches import Normalizer, crop_and_flip, draw_crops
from ._diagnostics import diagnose, layer_names
from ._evaluation import evaluate, finite, loss_and_hits
from ._ranks import Ranks
from ._recipe import Recipe

_PROBE = 128


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
    as the weights were at each), `test_loss`, `test_accuracy` and `test_top5_error` (after the epoch, see
    `evaluate`), the same three of `held_out` where the data has such images, and `seconds`. Accuracies are top-1,
    in [0, 1]. With `recipe.diagnostics` it also logs what `diagnose` finds after the epoch on the first 128 training
    images, and the closing record names the layers.

    A loss that is not finite is logged as null and ends the run with `status="diverged"` in its closing
    record: a result, not an error. On the CPU a resumed run ends with the same bits as one never disturbed, the
    number of threads being the same.

    Within `together()` the processes of the process group make the run together, see `Ranks`; the first records it.

    Binarized weights are clipped to [-1, 1] after every step. Within an epoch nothing waits for the device.

    Args:
        model: Maps float32 (N, 3, 32, 32) to logits (N, C); a rule is in it already, or it is plain.
        data: Images as uint8 and labels as int64.
        recipe: How to train.
        run: Where to record it; not complete.
        device: Where to train.
        on_step: Called after every step with the number of steps done, those of killed attempts included.

    Raises:
        RunError: The run is complete already, or its checkpoint cannot be read.
        LinearBackpropError: `recipe.diagnostics`, and the model has no activation module.
    """
    device = torch.device(device)
    model.to(device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer, clipped = recipe.optimizer_for(model), latent_weights(model)
    images, labels = data.train_images.to(device), data.train_labels.to(device)
    normalize = Normalizer(images)
    ranks = Ranks()
    forward = _forward(ranks.wrap(model), normalize, recipe, device)
    judged = _judged(data, device)
    probe = normalize(images[:_PROBE]), labels[:_PROBE]
    diverged = False

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        epochs_done = _start_or_resume(run, model, optimizer, device, ranks)
        step = epochs_done * math.ceil(len(images) / recipe.batch_size)

        for epoch in range(epochs_done + 1, recipe.epochs + 1):
            started = time.perf_counter()
            totals = torch.zeros(2, dtype=torch.float64, device=device)
            order = ranks.from_first(lambda: torch.randperm(len(images))).to(device)
            crops = ranks.from_first(lambda: draw_crops(len(images))).to(device) if recipe.augment else None
            model.train()
            for chosen in order.split(recipe.batch_size):
                share = ranks.share(chosen)
                batch, targets = images[share], labels[share]
                if crops is not None:
                    batch = crop_and_flip(batch, crops[share])
                optimizer.zero_grad()
                logits = forward(batch)
                loss = ranks.weigh(F.cross_entropy(logits, targets), share, chosen)
                loss.backward()
                optimizer.step()
                for weight in clipped:
                    weight.detach().clamp_(-1, 1)
                totals += loss_and_hits(logits.detach(), targets)
                step += 1
                on_step(step)
            train_loss, train_accuracy = (ranks.total(totals) / len(images)).tolist()
            metrics = {"epoch": epoch, "train_loss": finite(train_loss), "train_accuracy": train_accuracy}
            model.eval()
            for name, (those, their_labels) in judged.items():
                metrics |= {f"{name}_{key}": value for key, value in evaluate(forward, those, their_labels).items()}
            if recipe.diagnostics:
                metrics |= diagnose(model, *probe)
            metrics["seconds"] = time.perf_counter() - started
            diverged = ranks.from_first(partial(_record, run, metrics, model, optimizer, device))
            if diverged:
                break

    names = layer_names(model, probe[0]) if recipe.diagnostics else {}
    ranks.from_first(lambda: run.close(source=data.source, **_closing_record(run.metrics, diverged), **names))


def _forward(
    model: nn.Module, normalize: Normalizer, recipe: Recipe, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """From uint8 images to logits in full precision, as the recipe computes them."""
    compiled: Callable[[Tensor], Tensor] = model
    if recipe.compile:
        # What earlier runs of this process compiled would count against the limit on compiling again.
        torch.compiler.reset()
        compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    halved = recipe.precision == "bf16"

    def forward(images: Tensor) -> Tensor:
        inputs = normalize(images).contiguous(memory_format=layout)
        if recipe.compile:
            # The outputs of the step before lie in the same CUDA graph's memory, and are not needed any more.
            torch.compiler.cudagraph_mark_step_begin()
        # Training alone is compiled: evaluation is a small part of the time, in batches of other sizes.
        network = compiled if model.training else model
        with torch.autocast(device.type, torch.bfloat16, enabled=halved):
            logits = network(inputs)
        return logits.float() if halved else logits

    return forward


def _judged(data: ImageDataset, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """The images and labels that every epoch is judged on, by the prefix of their metrics."""
    judged = {"test": (data.test_images.to(device), data.test_labels.to(device))}
    if data.held_out_images is not None and data.held_out_labels is not None:
        judged["held_out"] = (data.held_out_images.to(device), data.held_out_labels.to(device))
    return judged


def _start_or_resume(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device, ranks: Ranks
) -> int:
    """Begin the run, or put back what its checkpoint holds; returns how many epochs are done."""
    checkpoint = ranks.from_first(partial(_begin, run))
    if checkpoint is None:
        return 0
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    torch.set_rng_state(checkpoint["generator"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(checkpoint["device_generator"], device)
    return checkpoint["epoch"]


def _begin(run: Run) -> dict[str, Any] | None:
    """Begin the run, or cut its metrics to what its checkpoint, which is returned, was written after."""
    checkpoint = run.resume()
    if checkpoint is None:
        run.start()
    else:
        run.keep_metrics(checkpoint["epoch"])
    return checkpoint


def _record(
    run: Run, metrics: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> bool:
    """Record an epoch; returns whether the run diverged in it, after which there is nothing to go on from."""
    run.log(**metrics)
    if metrics["train_loss"] is None or metrics["test_loss"] is None:
        return True
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": metrics["epoch"]}
    run.save_checkpoint(**state, **_generators(device))
    return False


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"generator": torch.get_rng_state()}
    if device.type == "cuda":
        states["device_generator"] = torch.cuda.get_rng_state(device)
    return states


def _closing_record(metrics: list[dict[str, Any]], diverged: bool) -> dict[str, Any]:
    return {
        "status": "diverged" if diverged else "finished",
        "epochs": len(metrics),
        "test_accuracy": metrics[-1]["test_accuracy"],
        "best_test_accuracy": max(line["test_accuracy"] for line in metrics),
        "seconds": sum(line["seconds"] for line in metrics),
    }
