"""How well a collapsed backward pass learns beside Backprop: a sweep of learning rates, then runs at the best.

Every record says which `part` it is: "sweep", judged on training images held out;
"train", at the learning rate that was best there, judged on the test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models import calibrate
from linear_backprop_lab.records import Run, is_whole
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Config, Plan
from linear_backprop_lab.studies.images.building import build_model, training_device
from linear_backprop_lab.studies.images.run import images_of, seconds_at_most
from linear_backprop_lab.training import Normalizer, Recipe, train

from .cases import Case, cases
from .methods import method_named

NAME = "collapse"

_HELD_OUT = 5000
_SWEEP_TEST = 500  # The loop wants test images; the sweep is judged on those held out.
_CALIBRATION = 512


def plan(place: Place, scale: Scale) -> Plan:
    """The sweep, and the runs at the best learning rate of every method whose sweep is complete.

    Methods share seeds: initial weights, images and their order are the same. The paper has no such experiment; its
    scale is that of the CPU.
    """
    found = place.images()
    swept: list[Config] = []
    further: list[Config] = []
    awaited = 0
    for case in cases(scale):
        for method in case.methods:
            sweep = sweep_configs(found, case, method)
            swept += sweep
            if (rate := best_rate(place.root, sweep)) is None:
                awaited += len(case.seeds)
            else:
                further += train_configs(found, case, method, rate)
    return Plan([*swept, *further], awaited)


def job(run: Run, place: Place) -> Job:
    """The job of a run of `plan`."""
    recipe = Recipe(**run.config["recipe"])
    model = run.config["model"]
    size = model.get("width") or "-".join(map(str, model["widths"]))
    return Job(
        run=run,
        label=f"{run.config['part']}: {model['name']} {size} {model['activation']}, {run.config['method']}, "
        f"lr {recipe.learning_rate:g}, seed {recipe.seed}",
        steps=recipe.steps(run.config["train_images"]),
        perform=partial(_perform, run, place),
        estimate=partial(seconds_at_most, run.config),
    )


def sweep_configs(found: ImageDataset, case: Case, method: str) -> list[Config]:
    """A run a learning rate, seed 0; 5,000 images are held out, or a fifth where there are few."""
    held_out = min(_HELD_OUT, len(found.train_labels) // 5)
    left = len(found.train_labels) - held_out
    return [
        {
            **_config(found, case, method, rate, seed=0),
            "part": "sweep",
            "train_images": min(case.sweep_images, left),
            "test_images": min(_SWEEP_TEST, len(found.test_labels)),
            "held_out_images": held_out,
        }
        for rate in case.learning_rates
    ]


def train_configs(found: ImageDataset, case: Case, method: str, rate: float) -> list[Config]:
    """A run a seed, nothing held out."""
    train_images = min(case.train_images, len(found.train_labels))
    return [
        {
            **_config(found, case, method, rate, seed),
            "part": "train",
            "train_images": train_images,
            "held_out_images": 0,
        }
        for seed in case.seeds
    ]


def best_rate(root: Path, configs: Sequence[Config]) -> float | None:
    """The learning rate of the best accuracy after the last epoch on the held-out images, the lower of equals.

    None where a run of the sweep is missing or damaged. One that diverged is out of the question unless all did.
    """
    runs = [Run(root, config) for config in configs]
    if not all(map(is_whole, runs)):
        return None
    return -max(map(_merit, runs))[-1]


def _merit(run: Run) -> tuple[bool, float, float]:
    finished = run.record["status"] == "finished"
    return finished, run.metrics[-1]["held_out_accuracy"], -run.config["recipe"]["learning_rate"]


def _config(found: ImageDataset, case: Case, method: str, rate: float, seed: int) -> Config:
    return {
        "experiment": NAME,
        "data": found.name,
        "test_images": min(case.test_images, len(found.test_labels)),
        "model": case.model,
        "method": method,
        "recipe": asdict(replace(case.recipe, learning_rate=rate, seed=seed)),
    }


def _perform(run: Run, place: Place, on_step: OnStep) -> None:
    config = run.config
    recipe = Recipe(**config["recipe"])
    images = images_of(config, place.images())
    model = method_named(config["method"])(calibrated(config["model"], images, recipe.seed))
    train(model, images, recipe, run, device=training_device(), on_step=on_step)


def calibrated(config: Mapping[str, Any], images: ImageDataset, seed: int) -> nn.Module:
    """The untrained model, its constant statistics those of the first training images."""
    model = build_model(config, seed)
    calibrate(model, Normalizer(images.train_images)(images.train_images[:_CALIBRATION]))
    return model
