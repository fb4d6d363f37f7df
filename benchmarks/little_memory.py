"""The networks, methods and trainings of `bench_little_memory`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset, load_images
from linear_backprop_lab.models import ConstantBatchNorm1d, calibrate, mlp
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies.collapse.runs import best_rate
from linear_backprop_lab.studies.images.run import images_of
from linear_backprop_lab.training import Normalizer, Recipe, train

NAME = "little-memory"
INPUTS, CLASSES, CALIBRATION = 3072, 10, 512


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The size of all that is trained.

    Attributes:
        hidden: The widths of the hidden layers.
        images: Trained on, held out for the choice of the learning rate, tested on.
        epochs: Passes over the training images, by Adam.
        batch_size: Images a step.
        micro: Images a micro-batch.
        rates: Learning rates, tried with the first seed until the best has worse ones on both sides.
        first: Which of them are tried first, begin and end.
        seeds: All are run at the best rate.
    """

    hidden: tuple[int, ...] = (1024, 1024, 1024)
    images: tuple[int, int, int] = (10_000, 1000, 5000)
    epochs: int = 5
    batch_size: int = 500
    micro: int = 125
    rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    first: tuple[int, int] = (1, 4)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def widths(self) -> tuple[int, ...]:
        """From the image to the classes."""
        return (INPUTS, *self.hidden, CLASSES)


SMOKE = Setting(
    hidden=(16, 16),
    images=(60, 20, 20),
    epochs=1,
    batch_size=30,
    micro=10,
    rates=(1e-3,),
    first=(0, 1),
    seeds=(0, 1),
)


class Sign(nn.Module):
    """Binary units."""

    def forward(self, a: Tensor) -> Tensor:
        """+1 or -1; 0 at 0."""
        return torch.sign(a)


def _binarized(widths: tuple[int, ...]) -> nn.Sequential:
    """Constant-statistics batch normalization and sign units; the weights are real."""
    *hidden, last = (nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(widths))
    layers = [nn.Sequential(layer, ConstantBatchNorm1d(layer.out_features), Sign()) for layer in hidden]
    return nn.Sequential(*layers, last)


def _activated(activation: Callable[[], nn.Module], widths: tuple[int, ...]) -> nn.Sequential:
    return mlp(widths, activation)


def clipped(model: nn.Module) -> nn.Module:
    """The model under the rule that binarized networks are trained with."""
    lb.convert(model, lb.Clipped())
    return model


Method = Callable[[nn.Module], nn.Module]
LINEAR: Method = partial(lb.collapse, always=True)


@dataclass(frozen=True)
class Network:
    """What is trained, and how: methods by name, the network's usual one first."""

    build: Callable[[tuple[int, ...]], nn.Sequential]
    methods: Mapping[str, Method]

    def model(self, setting: Setting, images: Tensor, seed: int) -> nn.Sequential:
        """Untrained, its constant statistics those of some images, (N, 3, 32, 32)."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Flatten(), *self.build(setting.widths))
        calibrate(model, images)
        return model


_LOCAL: Method = partial(lb.collapse, rule=lb.LocallyExact())
_PLAIN: dict[str, Method] = {"Backprop": lambda model: model, "Linear": LINEAR, "LocallyExact": _LOCAL}
NETWORKS = {
    "binarized": Network(_binarized, {"Clipped": clipped, "Linear": LINEAR}),
    "ReLU": Network(partial(_activated, nn.ReLU), _PLAIN),
    "tanh": Network(partial(_activated, nn.Tanh), _PLAIN),
}


def config_of(setting: Setting, data: str, network: str, method: str, rate: float, seed: int) -> dict[str, Any]:
    """The configuration of one training."""
    train_images, held_out, test = setting.images
    recipe = Recipe(
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=rate,
        optimizer="adam",
        augment=False,
        seed=seed,
        channels_last=False,
    )
    return {
        "experiment": NAME,
        "data": data,
        "network": network,
        "hidden": setting.hidden,
        "method": method,
        "train_images": train_images,
        "held_out_images": held_out,
        "test_images": test,
        "recipe": asdict(recipe),
    }


def sweep(root: Path, setting: Setting, data: str, network: str, method: str) -> tuple[list[Run], float | None]:
    """The runs that choose the learning rate, as far as they are known, and the rate; None before they are complete."""
    begin, end = setting.first
    while True:
        rates = setting.rates[begin:end]
        configs = [config_of(setting, data, network, method, rate, setting.seeds[0]) for rate in rates]
        best = best_rate(root, configs)
        if best == rates[0] and begin > 0:
            begin -= 1
        elif best == rates[-1] and end < len(setting.rates):
            end += 1
        else:
            return [Run(root, config) for config in configs], best


def chosen_runs(root: Path, setting: Setting, data: str, network: str, method: str) -> list[Run]:
    """A run a seed at the rate that was best on the held-out images; none before the sweep is complete."""
    _, rate = sweep(root, setting, data, network, method)
    if rate is None:
        return []
    return [Run(root, config_of(setting, data, network, method, rate, seed)) for seed in setting.seeds]


def missing_runs(root: Path, setting: Setting, data: str) -> Iterator[Run]:
    """Every training that is not complete; those after a sweep are known once it is run."""
    for network, each in NETWORKS.items():
        for method in each.methods:
            arguments = root, setting, data, network, method
            while waiting := [run for run in sweep(*arguments)[0] if not run.is_complete]:
                yield waiting[0]
            yield from (run for run in chosen_runs(*arguments) if not run.is_complete)


def train_all(root: Path, setting: Setting, images: Path | None) -> None:
    """Make every training that is missing below `root`, on one thread."""
    torch.set_num_threads(1)
    found = load_images(images, download=False)
    for run in missing_runs(root, setting, found.name):
        perform(run, setting, found)
        recipe, last = run.config["recipe"], run.metrics[-1]
        print(
            f"{run.config['network']}, {run.config['method']}, lr {recipe['learning_rate']:g}, seed {recipe['seed']}: "
            f"held out {last['held_out_accuracy']:.3f}, test {last['test_accuracy']:.3f}",
            flush=True,
        )


def perform(run: Run, setting: Setting, found: ImageDataset) -> None:
    """Make one training."""
    config = run.config
    recipe = Recipe(**config["recipe"])
    images = images_of(config, found)
    first = Normalizer(images.train_images)(images.train_images[:CALIBRATION])
    network = NETWORKS[config["network"]]
    model = network.methods[config["method"]](network.model(setting, first, recipe.seed))
    train(model, images, recipe, run)
