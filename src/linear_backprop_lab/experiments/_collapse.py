"""How well a collapsed backward pass learns beside Backprop: a sweep of learning rates, then runs at the best.

Every record says which `part` of the experiment it is: "sweep" trains on a part of the training images and tests on
images held out of them; "train" takes the learning rate that was best there, and the real test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models import calibrate
from linear_backprop_lab.records import Run, RunError
from linear_backprop_lab.training import Normalizer, Recipe, train

from ._building import build_model, training_device
from ._job import Job, OnStep
from ._methods import method_named

NAME = "collapse"

_EVERYWHERE = ("backprop", "linear", "local-linear", "local-mean")
_HELD_OUT = 5000
_CALIBRATION = 512


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and what it is trained with.

    Attributes:
        model: For `build_model`; ten classes.
        methods: For `method_named`.
        recipe: Seed and learning rate are set a run.
        train_images: How many at most; of the same images in every run.
        test_images: How many at most.
        sweep_images: How many training images a run of the sweep takes, at most.
        learning_rates: Of the sweep.
        seeds: Of the runs at the best learning rate.
    """

    model: dict[str, Any]
    methods: tuple[str, ...]
    recipe: Recipe
    train_images: int
    test_images: int
    sweep_images: int
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    seeds: tuple[int, ...] = (0, 1, 2)


def _mlp(activation: str, hidden: tuple[int, ...], middle: str) -> Case:
    return Case(
        model={"name": "mlp", "activation": activation, "widths": [3072, *hidden, 10]},
        methods=(*_EVERYWHERE, "above:layers.1", f"above:{middle}"),
        recipe=Recipe(epochs=3, batch_size=256, learning_rate=0, optimizer="adam", augment=False),
        train_images=50_000,
        test_images=10_000,
        sweep_images=15_000,
        seeds=(0, 1, 2, 3, 4),
    )


def _convnet(model: dict[str, Any], *more_methods: str) -> Case:
    return Case(
        model={**model, "activation": "ReLU"},
        methods=(*_EVERYWHERE, *more_methods),
        recipe=Recipe(epochs=4, batch_size=128, learning_rate=0, optimizer="adam", augment=False),
        train_images=8000,
        test_images=5000,
        sweep_images=4000,
    )


# Above the lowest activation collapsed, and the exact derivative at that activation alone, are the same gradient.
CASES = (
    _mlp("ReLU", (512,) * 3, "layers.3"),
    _mlp("Tanh", (512,) * 3, "layers.3"),
    _mlp("ReLU", (256,) * 8, "layers.7"),
    _mlp("Tanh", (256,) * 8, "layers.7"),
    _convnet(
        {"name": "vgg19", "width": 0.125, "pooling": "average", "batch_norm": False},
        "local:features.1",
        *(f"above:features.{pooling}" for pooling in (4, 9, 18, 27)),
    ),
    _convnet(
        {"name": "residual", "widths": [8, 16, 32], "normalization": "constant"},
        *(f"above:{stage}" for stage in ("stem", "stage1", "stage2")),
    ),
)


def sweep_jobs(root: Path, data: ImageDataset, cases: Sequence[Case] = CASES) -> list[Job]:
    """Every method of every case at every learning rate, with seed 0, tested on images held out of training."""
    shown = _held_out(data)
    configs = [config for case in cases for method in case.methods for config in _sweep_configs(shown, case, method)]
    return [_job(root, shown, config) for config in configs]


def collapse_jobs(root: Path, data: ImageDataset, cases: Sequence[Case] = CASES) -> list[Job]:
    """Every method of every case at its best learning rate, once a seed.

    Raises:
        RunError: A run of the sweep that decides a learning rate is missing below `root`.
    """
    shown = _held_out(data)
    return [
        _job(root, data, _config(data, case, "train", method, case.train_images, rate, seed))
        for case in cases
        for method in case.methods
        for rate in [_best_rate(root, _sweep_configs(shown, case, method))]
        for seed in case.seeds
    ]


def _best_rate(root: Path, configs: Sequence[dict[str, Any]]) -> float:
    """The learning rate with the highest accuracy after the last epoch on the held-out images; the lower of equals."""
    runs = [Run(root, config) for config in configs]
    if not all(run.is_complete for run in runs):
        raise RunError(
            f"no learning rate is chosen for {_label(configs[0])}: runs of the sweep are missing below {root}; "
            f"make them first with: linear-backprop reproduce collapse-sweep"
        )
    best = max(runs, key=lambda run: (run.record["test_accuracy"], -run.config["recipe"]["learning_rate"]))
    return best.config["recipe"]["learning_rate"]


def _held_out(data: ImageDataset) -> ImageDataset:
    """The last of the training images in place of the test images: 5,000, or a fifth where there are few."""
    count = min(_HELD_OUT, len(data.train_labels) // 5)
    return replace(
        data,
        train_images=data.train_images[:-count],
        train_labels=data.train_labels[:-count],
        test_images=data.train_images[-count:],
        test_labels=data.train_labels[-count:],
        source=f"{data.source}; its last {count:,} training images held out, and tested on",
    )


def _sweep_configs(shown: ImageDataset, case: Case, method: str) -> list[dict[str, Any]]:
    return [_config(shown, case, "sweep", method, case.sweep_images, rate, 0) for rate in case.learning_rates]


def _config(
    data: ImageDataset, case: Case, part: str, method: str, train_images: int, rate: float, seed: int
) -> dict[str, Any]:
    return {
        "experiment": NAME,
        "part": part,
        "data": data.name,
        "train_images": min(train_images, len(data.train_images)),
        "test_images": min(case.test_images, len(data.test_images)),
        "model": case.model,
        "method": method,
        "recipe": asdict(replace(case.recipe, learning_rate=rate, seed=seed)),
    }


def _label(config: dict[str, Any]) -> str:
    model = config["model"]
    size = model.get("widths", model.get("width"))
    return f"{model['name']} {size}, {model['activation']}, {config['method']}"


def _job(root: Path, data: ImageDataset, config: dict[str, Any]) -> Job:
    recipe = Recipe(**config["recipe"])
    run = Run(root, config)
    return Job(
        run=run,
        label=f"{config['part']}: {_label(config)}, lr {recipe.learning_rate:g}, seed {recipe.seed}",
        steps=recipe.steps(config["train_images"]),
        perform=partial(_perform, run, data, recipe),
    )


def _perform(run: Run, data: ImageDataset, recipe: Recipe, on_step: OnStep) -> None:
    config = run.config
    subset = data.subset(config["train_images"], config["test_images"])
    model = method_named(config["method"])(prepared(config["model"], subset, recipe.seed))
    train(model, subset, recipe, run, device=training_device(), on_step=on_step)


def prepared(model: dict[str, Any], data: ImageDataset, seed: int) -> Any:
    """The untrained model, what statistics it has calibrated on the first training images."""
    built = build_model(model, seed)
    calibrate(built, Normalizer(data.train_images)(data.train_images[:_CALIBRATION]))
    return built
