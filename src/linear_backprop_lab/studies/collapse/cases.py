"""The models that the collapse is studied on, and what each is trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.training import Recipe

_EVERYWHERE = ("backprop", "linear", "local-linear", "local-mean")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and what it is trained with.

    Attributes:
        model: For `build_model`; ten classes.
        methods: For `method_named`.
        recipe: Seed and learning rate are set a run.
        train_images: How many a run at the best learning rate takes, at most.
        test_images: How many it is tested on, at most; the sweep is judged on held-out images.
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
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    seeds: tuple[int, ...] = (0, 1, 2)

    @property
    def name(self) -> str:
        """Tells the cases apart."""
        return repr(self.model)


def cases(scale: Scale) -> tuple[Case, ...]:
    """Every case at a scale, at the smallest an MLP and a convnet; the paper's is the CPU's."""
    return (_smoke(_CASES[0]), _smoke(_CASES[-1])) if scale is Scale.SMOKE else _CASES


def _smoke(case: Case) -> Case:
    return replace(
        case,
        methods=case.methods[: len(_EVERYWHERE) + 1],
        recipe=replace(case.recipe, epochs=1),
        train_images=case.recipe.batch_size,
        test_images=100,
        sweep_images=case.recipe.batch_size,
        learning_rates=case.learning_rates[:1],
        seeds=case.seeds[:1],
    )


def _mlp(activation: str, hidden: tuple[int, ...], *more_methods: str) -> Case:
    return Case(
        model={"name": "mlp", "activation": activation, "widths": [3072, *hidden, 10]},
        methods=(*_EVERYWHERE, *more_methods),
        recipe=Recipe(epochs=3, batch_size=256, learning_rate=0, optimizer="adam", augment=False, channels_last=False),
        train_images=50_000,
        test_images=10_000,
        sweep_images=12_800,
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


_CASES = (
    _mlp("ReLU", (512,) * 3, "above:layers.1", "above:layers.3"),
    _mlp("Tanh", (512,) * 3),
    _mlp("ReLU", (256,) * 8),
    _mlp("Tanh", (256,) * 8),
    _convnet(
        {"name": "vgg19", "width": 0.125, "pooling": "average", "batch_norm": False},
        *(f"above:features.{pooling}" for pooling in (4, 9, 18, 27)),
    ),
    replace(
        _convnet({"name": "residual", "widths": [8, 16, 32], "normalization": "constant"}),
        learning_rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    ),
)
