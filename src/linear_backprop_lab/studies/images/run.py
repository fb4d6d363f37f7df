"""One run on images, made from its configuration alone: data, model, rule, training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch

import linear_backprop as lb
from linear_backprop_lab.data import DataError, ImageDataset
from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._threads import one_thread
from linear_backprop_lab.timing import seconds
from linear_backprop_lab.training import Recipe, train

from .building import build_model, training_device

# Two forward and backward passes, a copy of the model, and a forward pass with its slopes.
_STEPS_OF_DIAGNOSTICS = 3


def image_job(run: Run, place: Place) -> Job:
    """The job of a run on images.

    Runs that differ in the rule alone start from the same weights and see the same images in the same order.

    Args:
        run: Its configuration has `experiment`; `data`, the name of the data set; `train_images`, `held_out_images`
            (may be 0) and `test_images`, how many of it; `model`, as `build_model` takes it; `rule`; `recipe`, the
            arguments of `Recipe`.
        place: Where it is made.
    """
    return Job(
        run=run,
        label=_label(run.config),
        steps=Recipe(**run.config["recipe"]).steps(run.config["train_images"]),
        perform=partial(_perform, run, place),
        estimate=partial(seconds_at_most, run.config),
        # Without a GPU, several processes cannot take batch statistics together.
        shared=training_device() == "cuda" or not run.config["model"].get("batch_norm", True),
    )


def _label(config: Mapping[str, Any]) -> str:
    model, recipe = config["model"], config["recipe"]
    parts = [config["data"], model["name"], model["activation"]]
    if "batch_norm" in model:
        parts.append("batch norm" if model["batch_norm"] else "no batch norm")
    if (initialization := model.get("initialization", "he")) != "he":
        parts.append(f"{initialization} initialization")
    if not recipe["augment"]:
        parts.append("not augmented")
    parts += [f"lr {recipe['learning_rate']:g}", f"l2 {recipe['weight_decay']:g}", config["rule"]]
    return ", ".join([*parts, f"{recipe['epochs']} epochs", f"seed {recipe['seed']}"])


def seconds_at_most(config: Mapping[str, Any], recipe_class: type[Recipe] = Recipe) -> float:
    """How long the run of a configuration takes here on one thread, by timing a step of Backprop."""
    recipe = recipe_class(**config["recipe"])
    model = json.dumps(config["model"], sort_keys=True)
    step, forward = seconds_of_a_step(model, recipe.batch_size, recipe.channels_last)
    judged = (config["test_images"] + config["held_out_images"]) / recipe.batch_size
    looks = _STEPS_OF_DIAGNOSTICS if recipe.diagnostics else 0
    return recipe.steps(config["train_images"]) * step + recipe.epochs * (judged * forward + looks * step)


@lru_cache
@one_thread()
def seconds_of_a_step(model_config: str, batch_size: int, channels_last: bool) -> tuple[float, float]:
    """Of one step of SGD and of one forward pass, in full precision, not compiled; the second time each."""
    device = torch.device(training_device())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build_model(json.loads(model_config), seed=0).to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    # Drawn, for some kernels are faster on zeros.
    drawn = torch.randn(batch_size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = drawn.to(device).contiguous(memory_format=layout)

    def second_time(work: Callable[[], object]) -> float:
        work()
        return seconds(work)

    with torch.random.fork_rng([]), torch.no_grad():
        forward = second_time(lambda: model(images))
    return second_time(lambda: model(images).sum().backward()), forward


def _perform(run: Run, place: Place, on_step: OnStep) -> None:
    config = run.config
    recipe = Recipe(**config["recipe"])
    images = images_of(config, place.images())
    model = build_model(config["model"], recipe.seed)
    lb.convert(model, lb.rule_from_name(config["rule"]))
    train(model, images, recipe, run, device=training_device(), on_step=on_step)


def images_of(config: Mapping[str, Any], found: ImageDataset) -> ImageDataset:
    """The part of the images found that a configuration is about, the same for every seed: seeds are of training.

    Raises:
        DataError: They are of another data set.
    """
    if found.name != config["data"]:
        raise DataError(
            f"the run is on {config['data']}, but what was found is {found.source}; name its folder with --data"
        )
    held_out = config["held_out_images"]
    drawn = found.subset(config["train_images"] + held_out, config["test_images"])
    return drawn.hold_out(held_out) if held_out else drawn
