"""The networks that attacks are made on and tried on: trained once, their weights kept beside the record."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.records import Run, lock, write_whole
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Config, Plan
from linear_backprop_lab.studies.images.building import build_model, training_device
from linear_backprop_lab.studies.images.run import images_of, seconds_at_most
from linear_backprop_lab.training import Normalizer, OneCycle, train

NAME = "transfer-networks"
SOURCES = ("VGG19", "bottleneck")
VICTIMS = ("plain", "MobileNet-like")

_WEIGHTS = "weights.pt"
_MODELS: dict[str, dict[str, Any]] = {
    "VGG19": {"name": "vgg19", "activation": "ReLU", "width": 1 / 8, "batch_norm": True},
    "bottleneck": {"name": "bottleneck", "activation": "ReLU", "widths": (16, 32, 64), "blocks": (1, 2, 2)},
    "plain": {"name": "plain", "activation": "ReLU", "widths": (32, 64, 64, 64)},
    "MobileNet-like": {"name": "inverted-residual", "activation": "ReLU6", "widths": (16, 32, 64)},
}
_SMALLEST: dict[str, dict[str, Any]] = {
    "VGG19": {"width": 1 / 32},
    "bottleneck": {"widths": (4, 8), "blocks": (1, 1)},
    "plain": {"widths": (4, 8)},
    "MobileNet-like": {"widths": (8, 16), "blocks": 1},
}
_WIDEST: dict[str, dict[str, Any]] = {
    "VGG19": {"width": 1 / 2},
    "bottleneck": {"widths": (32, 64, 128), "blocks": (3, 4, 3)},
    "plain": {"widths": (64, 128, 256, 256)},
    "MobileNet-like": {"widths": (64, 128, 256)},
}
_EPOCHS = {"VGG19": 10, "bottleneck": 6, "plain": 4, "MobileNet-like": 3}


def network_configs(scale: Scale, found: ImageDataset) -> dict[str, Config]:
    """How each network is built and trained on the images found; at the smallest scale it is narrow, hardly trained."""
    return {name: _config(name, scale, found) for name in (*SOURCES, *VICTIMS)}


def _config(name: str, scale: Scale, found: ImageDataset) -> Config:
    sizes = {Scale.SMOKE: _SMALLEST, Scale.CPU: dict[str, dict[str, Any]](), Scale.PAPER: _WIDEST}[scale]
    images = min({Scale.SMOKE: 512, Scale.CPU: 50_000, Scale.PAPER: 50_000}[scale], len(found.train_images))
    epochs = {Scale.SMOKE: 2, Scale.CPU: _EPOCHS[name], Scale.PAPER: 30}[scale]
    larger = 2 if scale is Scale.PAPER else 1  # batches, and with them the rate: for a GPU
    recipe = OneCycle(
        epochs=epochs,
        batch_size=128 * larger,
        learning_rate=0.1 * larger,
        momentum=0.9,
        weight_decay=5e-4,
        images=images,
        channels_last=True,
    )
    return {
        "experiment": NAME,
        "network": name,
        "data": found.name,
        "train_images": images,
        "held_out_images": 0,
        "test_images": min(256 if scale is Scale.SMOKE else 10_000, len(found.test_images)),
        "model": {**_MODELS[name], **sizes.get(name, {})},
        "recipe": asdict(recipe),
    }


def network_plan(place: Place, scale: Scale) -> Plan:
    """The training of every network, under Backprop."""
    return Plan(list(network_configs(scale, place.images()).values()))


def network_job(run: Run, place: Place) -> Job:
    """The training of one network."""
    recipe = OneCycle(**run.config["recipe"])
    return Job(
        run=run,
        label=f"{run.config['network']}, {recipe.epochs} epochs",
        steps=recipe.steps(run.config["train_images"]),
        perform=partial(_perform, run, place),
        estimate=partial(seconds_at_most, run.config, OneCycle),
    )


def trained_network(config: Mapping[str, Any], place: Place) -> nn.Module:
    """The network, in eval mode, for images in [0, 1]; trained again where its weights are not at hand.

    Of several processes that want it, one trains it while the others wait.
    """
    run = Run(place.root, config)
    path = run.folder / _WEIGHTS
    with lock(run, wait=True):
        if not path.exists():
            with tempfile.TemporaryDirectory() as scratch:
                model = _train(Run(Path(scratch), config), place, lambda step: None)
            path.parent.mkdir(parents=True, exist_ok=True)
            _keep(model, path)
    model = Scaled(build_model(run.config["model"], seed=0), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.requires_grad_(False).eval()


def _perform(run: Run, place: Place, on_step: OnStep) -> None:
    _keep(_train(run, place, on_step), run.folder / _WEIGHTS)


def _train(run: Run, place: Place, on_step: OnStep) -> Scaled:
    images = images_of(run.config, place.images())
    recipe = OneCycle(**run.config["recipe"])
    network = build_model(run.config["model"], recipe.seed)
    train(network, images, recipe, run, device=training_device(), on_step=on_step)
    normalizer = Normalizer(images.train_images)
    return Scaled(network.cpu(), normalizer.mean, normalizer.deviation)


def _keep(model: nn.Module, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_whole(path, buffer.getbuffer())


class Scaled(nn.Module):
    """A network that was trained on normalized images, for images in [0, 1].

    Args:
        network: The network.
        mean: Of each channel of the images that it was trained on, (1, 3, 1, 1); they are of 0 to 255.
        deviation: The same of the standard deviation.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, network: nn.Module, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, C)."""
        return self.network((255 * images - self.mean) / self.deviation)
