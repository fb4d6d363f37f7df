"""The grid of learning rates and l2 penalties that the paper sweeps, and the runs that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

import linear_backprop as lb
from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.records import Run, is_whole
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Config, Plan
from linear_backprop_lab.training import Recipe

from .building import has_fast_bfloat16
from .selection import Metric, choose, protocols


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a sweep is.

    Attributes:
        train_images: How many images are trained on.
        held_out_images: How many more are held out of training.
        test_images: How many test images every epoch is judged on.
        epochs: Of every run of the sweep.
        learning_rates: Swept, with every penalty.
        penalties: The factors of the l2 penalty.
        seeds: How many seeds the best settings get; the sweep has seed 0.
        precision: As in `Recipe`.
        compile: As in `Recipe`.
    """

    train_images: int
    held_out_images: int
    test_images: int
    epochs: int
    learning_rates: Sequence[float]
    penalties: Sequence[float]
    seeds: int = 1
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False

    def within(self, data: ImageDataset) -> dict[str, int]:
        """The numbers of images, as far as the data goes; a tenth of what there is, at most, is held out."""
        available = len(data.train_images)
        held_out = min(self.held_out_images, available // 10)
        return {
            "train_images": min(self.train_images, available - held_out),
            "held_out_images": held_out,
            "test_images": min(self.test_images, len(data.test_images)),
        }


# The paper says neither precision nor compilation: what is fast here.
PAPER_SIZE = Size(
    train_images=45_000,
    held_out_images=5000,
    test_images=10_000,
    epochs=100,
    learning_rates=(1e-3, 1e-4, 1e-5),
    penalties=(1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    seeds=3,
    precision="bf16" if has_fast_bfloat16() else "float32",
    compile=torch.cuda.is_available(),
)

# The paper's learning rates move nothing within two hundred steps, and its smaller penalties are as good as none: at
# the small scales the rates are a hundred times higher, and two penalties stand for six.
SIZES = {
    Scale.SMOKE: Size(
        train_images=64,
        held_out_images=32,
        test_images=32,
        epochs=1,
        learning_rates=(1e-2,),
        penalties=(1e-3,),
        seeds=2,
    ),
    Scale.CPU: Size(
        train_images=3840,
        held_out_images=1000,
        test_images=2000,
        epochs=6,
        learning_rates=(1e-1, 1e-2, 1e-3),
        penalties=(1e-1, 1e-3),
        seeds=3,
    ),
    Scale.PAPER: PAPER_SIZE,
}


def grid(
    experiment: str,
    size: Size,
    data: ImageDataset,
    models: Iterable[Config],
    rules: Iterable[lb.BackwardRule],
    *,
    augment: bool = True,
    diagnostics: bool = True,
) -> list[Config]:
    """The configurations of a sweep: every model under every rule at every learning rate and penalty.

    Vanilla SGD, batches of 128.

    Args:
        experiment: `config["experiment"]`.
        size: Of the sweep.
        data: CIFAR-10, or digits in its place.
        models: As `build_model` takes them, without `classes`.
        rules: The rules of their activations.
        augment: As in `Recipe`.
        diagnostics: As in `Recipe`.
    """
    settings = itertools.product(models, size.learning_rates, size.penalties, rules)
    return [
        {
            "experiment": experiment,
            "data": data.name,
            **size.within(data),
            "model": {**model, "classes": len(data.classes)},
            "rule": repr(rule),
            "recipe": asdict(
                Recipe(
                    epochs=size.epochs,
                    learning_rate=learning_rate,
                    weight_decay=penalty,
                    augment=augment,
                    precision=size.precision,
                    compile=size.compile,
                    diagnostics=diagnostics,
                )
            ),
        }
        for model, learning_rate, penalty, rule in settings
    ]


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A sweep, and what follows from it: each model and rule at its best settings, with other seeds or more epochs.

    The best settings are the one that the test set chooses, as in the paper, and the one that held-out images choose.

    Attributes:
        swept: The configurations of the sweep.
        seeds: Of the runs that follow.
        epochs: Of the runs that follow; None for the sweep's.
        metric: That a setting is chosen by.
    """

    swept: Sequence[Config]
    seeds: Sequence[int] = ()
    epochs: int | None = None
    metric: Metric = "accuracy"

    def plan(self, root: Path) -> Plan:
        """The sweep, and what follows for every model and rule whose sweep is complete, and undamaged, below `root`."""
        groups = self._groups(root)
        complete = [runs for runs in groups if all(map(is_whole, runs))]
        best = [choose(runs, protocol, self.metric).run for runs in complete for protocol in protocols(runs[0])]
        configs = {run.key: run.config for run in best}.values()
        further = itertools.starmap(self._again, itertools.product(configs, self.seeds))
        # As many of each as there are protocols, if these do not agree anywhere.
        awaited = sum(len(protocols(runs[0])) * len(self.seeds) for runs in groups if runs not in complete)
        return Plan([*self.swept, *further], awaited)

    def _groups(self, root: Path) -> list[list[Run]]:
        """The runs of every model and rule."""
        groups: dict[str, list[Run]] = {}
        for config in self.swept:
            groups.setdefault(f"{config['model']} {config['rule']}", []).append(Run(root, config))
        return list(groups.values())

    def _again(self, config: Config, seed: int) -> Config:
        recipe = config["recipe"]
        return {**config, "recipe": {**recipe, "seed": seed, "epochs": self.epochs or recipe["epochs"]}}
