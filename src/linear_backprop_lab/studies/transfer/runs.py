"""Adversarial examples crafted on one network and tried on others: I-FGSM, LinBP by position, BPA and more."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.records import Run, RunError
from linear_backprop_lab.studies._job import Job, OnStep
from linear_backprop_lab.studies._place import Place
from linear_backprop_lab.studies._scale import Scale
from linear_backprop_lab.studies._study import Config, Plan
from linear_backprop_lab.studies.images.building import build_model, training_device
from linear_backprop_lab.studies.images.run import images_of, seconds_of_a_step

from .methods import PLAIN, Kind, Method, activation_paths, attack_of, methods_of
from .networks import SOURCES, VICTIMS, network_configs, trained_network

NAME = "transfer"

_KINDS: tuple[Kind, ...] = ("LinBP", "Renormalized", "first two runs", "SiLU", "BPA")
_BATCHES = {"cpu": 64, "cuda": 1000}


class _Size(NamedTuple):
    images: int
    starts: int
    positions: int


_SIZES = {
    Scale.SMOKE: _Size(images=16, starts=1, positions=2),
    Scale.CPU: _Size(images=256, starts=2, positions=8),
    Scale.PAPER: _Size(images=1000, starts=5, positions=16),
}
_STEPS = {Scale.SMOKE: (2,), Scale.CPU: (10, 100), Scale.PAPER: (10, 100)}
_MOMENTA = (0.0, 1.0)

# At the paper's scale networks of any strength: each pair is tried where the plain attack does neither little nor all.
_EPS: dict[Scale, float | list[float]] = {
    Scale.SMOKE: 8 / 255,
    Scale.CPU: 8 / 255,
    Scale.PAPER: [levels / 255 for levels in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)],
}
FOOLED_AT_LEAST = 0.4
"""Of a pair's images by I-FGSM: the least of several changes that does so is the pair's."""


def plan(place: Place, scale: Scale) -> Plan:
    """A run a source, victim, number of steps and momentum; networks without weights at hand are trained first.

    A line of `metrics.jsonl` is of one attack: `kind`, `changed` (how many modules of activations follow the rule, from
    the output on), and `fooled`, for each random start and network the share of images that it takes for something
    else; `fooled.npz` says which. At the smallest scale the networks are narrow; at the paper's they are wide, with
    1,000 images and five random starts, and the largest change is each pair's own.
    """
    networks = network_configs(scale, place.images())
    settings = itertools.product(_STEPS[scale], _MOMENTA, SOURCES, VICTIMS)
    return Plan(
        [
            _config({name: networks[name] for name in (source, victim)}, steps, momentum, scale)
            for steps, momentum, source, victim in settings
        ]
    )


def _config(networks: dict[str, Config], steps: int, momentum: float, scale: Scale) -> Config:
    """Attacks on the first of two networks, tried on the second."""
    size, eps = _SIZES[scale], _EPS[scale]
    source, victim = networks
    is_long = steps > _STEPS[scale][0]
    whole = not is_long and (scale is Scale.PAPER or not momentum)
    return {
        "experiment": NAME,
        "source": source,
        "victim": victim,
        "networks": networks,
        "data": networks[source]["data"],
        "images": size.images,
        "all_right": scale is not Scale.SMOKE,
        "train_images": networks[source]["train_images"],
        "starts": list(range(size.starts // 2 if is_long else size.starts)),
        "positions": {
            "LinBP": size.positions if whole else size.positions // 2,
            "others": max(1, size.positions // 4) if whole else 2,
        },
        "eps": eps,
        "alpha": [each / 4 for each in eps] if isinstance(eps, list) else eps / 4,
        "steps": steps,
        "momentum": momentum,
    }


def job(run: Run, place: Place) -> Job:
    """The job of a run of `plan`."""
    config = run.config
    momentum = f", momentum {config['momentum']:g}" if config["momentum"] else ""
    return Job(
        run=run,
        label=f"{config['source']} to {config['victim']}, {config['steps']} steps{momentum}",
        steps=len(methods(config)),
        perform=partial(_perform, run, place),
        estimate=partial(_estimate, config),
    )


def _estimate(config: Mapping[str, Any]) -> float:
    """Seconds at most, by timing a step of Backprop on the source; a rule of one's own makes it twice as dear."""
    source = json.dumps(config["networks"][config["source"]]["model"], sort_keys=True)
    batch = _BATCHES[training_device()]
    step, _ = seconds_of_a_step(source, batch, False)
    batches = math.ceil(config["images"] / batch) * len(config["starts"])
    return 2 * step * batches * config["steps"] * len(methods(config))


def methods(config: Mapping[str, Any]) -> list[Method]:
    """The attacks of a configuration."""
    model = build_model(config["networks"][config["source"]]["model"], seed=0)
    runs_each = 3 if config["source"] == "bottleneck" else 1
    return methods_of(_KINDS, len(activation_paths(model)), config["positions"], runs_each)


def _perform(run: Run, place: Place, on_step: OnStep) -> None:
    """Make the run from its beginning."""
    config = run.config
    device = training_device()
    layout = torch.channels_last if device == "cuda" else torch.preserve_format
    networks = {
        name: trained_network(each, place).to(device, memory_format=layout)  # pyright: ignore[reportCallIssue]
        for name, each in config["networks"].items()
    }
    found = images_of(config["networks"][config["source"]], place.images())
    run.start()
    started = time.perf_counter()
    images, labels = _chosen(networks.values() if config["all_right"] else (), found, config["images"], device)
    settings = {name: config[name] for name in ("eps", "alpha", "steps", "momentum")}
    if isinstance(config["eps"], list):
        settings |= _of_the_pair(config, networks, images, labels)
    fooled: list[np.ndarray] = []
    for done, method in enumerate(methods(config), start=1):
        begun = time.perf_counter()
        of_seeds = [
            _fooled(method, networks, config["source"], images, labels, settings, seed) for seed in config["starts"]
        ]
        fooled.append(np.stack(of_seeds))
        rates = [{name: float(each.mean()) for name, each in zip(networks, seed, strict=True)} for seed in of_seeds]
        run.log(kind=method.kind, changed=method.changed, fooled=rates, seconds=time.perf_counter() - begun)
        on_step(done)
    run.save_arrays("fooled", fooled=np.stack(fooled))
    run.close(
        status="finished",
        images=len(images),
        eps=settings["eps"],
        source=found.source,
        seconds=time.perf_counter() - started,
    )


def _of_the_pair(
    config: Mapping[str, Any], networks: Mapping[str, nn.Module], images: Tensor, labels: Tensor
) -> dict[str, float]:
    """The least `eps` by which I-FGSM of ten steps fools enough, or the largest there is, and its `alpha`."""
    chosen: dict[str, float] = {}
    for eps, alpha in zip(config["eps"], config["alpha"], strict=True):
        chosen = {"eps": eps, "alpha": alpha}
        settings = {**chosen, "steps": 10, "momentum": 0.0}
        _, of_victim = _fooled(Method(PLAIN), networks, config["source"], images, labels, settings, seed=0)
        if of_victim.mean() >= FOOLED_AT_LEAST:
            break
    return chosen


@torch.no_grad()
def _chosen(networks: Iterable[nn.Module], found: ImageDataset, wanted: int, device: str) -> tuple[Tensor, Tensor]:
    """The first of some test images, as many of each class, that both networks classify rightly; at most `wanted`.

    Raises:
        RunError: They are fewer than two.
    """
    drawn = found.subset(None, min(len(found.test_images), 4 * wanted))
    images, labels = drawn.test_images.to(device).float() / 255, drawn.test_labels.to(device)
    right = torch.ones_like(labels, dtype=torch.bool)
    for network in networks:
        right &= torch.cat([network(batch).argmax(1) for batch in images.split(_BATCHES[device])]) == labels
    if right.sum() < 2:
        raise RunError(f"both networks classify {right.sum()} of {len(labels)} images rightly; train them for longer")
    return images[right][:wanted], labels[right][:wanted]


def _fooled(
    method: Method,
    networks: Mapping[str, nn.Module],
    source: str,
    images: Tensor,
    labels: Tensor,
    settings: dict[str, Any],
    seed: int,
) -> np.ndarray:
    """Which images each network takes for something else: (networks, images)."""
    attack = attack_of(method, networks[source], settings, seed)
    batch = _BATCHES[images.device.type]
    crafted = [attack(*each) for each in zip(images.split(batch), labels.split(batch), strict=True)]
    with torch.no_grad():
        guesses = [torch.cat([network(batch).argmax(1) for batch in crafted]) for network in networks.values()]
    return torch.stack([guess != labels for guess in guesses]).cpu().numpy()
