import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop.attacks import IterativeFGSM
from linear_backprop_lab.data import load_images
from linear_backprop_lab.records import Run, RunError, lock
from linear_backprop_lab.studies import Place, Scale, experiments_named, jobs_of
from linear_backprop_lab.studies.images.building import build_model
from linear_backprop_lab.studies.images.run import images_of
from linear_backprop_lab.studies.transfer import networks, runs
from linear_backprop_lab.studies.transfer.methods import Method, activation_paths, attack_of, methods_of
from linear_backprop_lab.studies.transfer.networks import network_configs, network_job, trained_network
from linear_backprop_lab.studies.transfer.runs import job, methods, plan
from linear_backprop_lab.studies.transfer.section import transfer
from linear_backprop_lab.training import Normalizer

SETTINGS = {"eps": 4 / 255, "alpha": 1 / 255, "steps": 2, "momentum": 0.0}


@pytest.fixture(autouse=True)
def digits(monkeypatch, tmp_path):
    monkeypatch.delenv("LINEAR_BACKPROP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def network_config(name: str) -> dict[str, Any]:
    return network_configs(Scale.SMOKE, load_images())[name]


def source(name: str) -> nn.Module:
    return build_model(network_config(name)["model"], seed=0).eval()


def changed(method: Method, model: nn.Module) -> list[tuple[str, str]]:
    """The activations that follow a rule while an attack runs, and how."""
    settings = attack_of(method, model, SETTINGS, seed=0)._conversions[-1]
    with lb.convert(model, settings.rule, settings.where, settings.layers) as conversion:
        return [(site.path, site.backward_pass) for site in conversion.changed if "ReLU" in site.what]


def test_positions_are_spread_evenly_down_to_all_activations():
    chosen = methods_of(("LinBP", "first two runs", "BPA"), 16, {"LinBP": 16, "others": 4}, runs_each=1)
    assert [m.changed for m in chosen if m.kind == "LinBP"] == [*range(1, 17)]
    assert [m.changed for m in chosen if m.kind == "BPA"] == [4, 8, 12, 16]
    assert chosen[0] == Method("I-FGSM") and not any(m.kind == "first two runs" for m in chosen)
    few = methods_of(("LinBP", "first two runs"), 3, {"LinBP": 16, "others": 4}, runs_each=3)
    assert [m.changed for m in few] == [0, 1, 2, 3, 1, 2, 3]


def test_an_attack_changes_as_many_activations_as_it_says_from_the_output_on():
    vgg, resnet = source("VGG19"), source("bottleneck")
    relus = activation_paths(vgg)
    assert len(relus) == 16
    assert changed(Method("LinBP", 3), vgg) == [(path, "Linear()") for path in relus[-3:]]
    assert changed(Method("LinBP", 16), vgg) == [(path, "Linear()") for path in relus]
    assert changed(Method("Renormalized", 1), vgg) == [(relus[-1], "Renormalized(rule=Linear())")]
    silu = [(relus[-1], "Surrogate(function='silu')")]
    assert changed(Method("SiLU", 1), vgg) == changed(Method("BPA", 1), vgg) == silu
    assert [how for _, how in changed(Method("first two runs", 2), resnet)] == ["Linear(); runs 0, 1 alone"] * 2


def test_i_fgsm_is_the_model_s_own_gradient_and_seeds_are_starts():
    model, x, y = source("VGG19"), torch.rand(4, 3, 32, 32), torch.arange(4)
    first, again, other = (attack_of(Method("I-FGSM"), model, SETTINGS, seed)(x, y) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(first, IterativeFGSM(model, **SETTINGS, random_start=True, generator=generator)(x, y))


def test_the_smallest_scale_runs_and_is_read(tmp_path):
    found = jobs_of(experiments_named(["transfer"]), Place(tmp_path), Scale.SMOKE)
    trained, jobs = [each.run.config["experiment"] for each in found[:4]], found[4:]
    assert trained == [networks.NAME] * 4
    steps: list[int] = []
    made = [jobs[0], jobs[2]]
    for each in made:
        each.perform(steps.append)
    assert [each.run.config["source"] for each in made] == ["VGG19", "bottleneck"]
    for run in (each.run for each in made):
        chosen = methods(run.config)
        assert [(line["kind"], line["changed"]) for line in run.metrics] == chosen
        assert run.arrays("fooled")["fooled"].shape == (len(chosen), 1, 2, 16)
        assert set(run.metrics[0]["fooled"][0]) == {run.config["source"], "plain"}
    assert steps == [*range(1, made[0].steps + 1), *range(1, made[1].steps + 1)]
    section = transfer([each.run for each in made])
    assert len(section.figures) == 1 and section.table and section.finding


@pytest.mark.parametrize("scale", Scale)
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_networks_are_trained_on_the_images_there_are(scale, name):
    found = replace(load_images(), name=name)
    for config in network_configs(scale, found).values():
        drawn = images_of(config, found)
        assert drawn.name == name
        assert len(drawn.train_images) == config["train_images"] == config["recipe"]["images"]


def test_a_trained_network_keeps_its_weights_and_is_trained_again_without_them(tmp_path):
    place = Place(tmp_path)
    trained = network_job(Run(tmp_path, network_config("plain")), place)
    trained.perform(lambda step: None)
    kept = trained_network(trained.run.config, place).state_dict()
    (trained.run.folder / "weights.pt").unlink()
    again = trained_network(trained.run.config, place)
    assert all(torch.equal(value, kept[name]) for name, value in again.state_dict().items())
    assert not again.training and not any(parameter.requires_grad for parameter in again.parameters())
    assert trained.run.is_complete and (trained.run.folder / "weights.pt").exists()


def test_a_network_takes_images_in_0_to_1_as_it_was_trained_on_bytes(tmp_path):
    config = network_config("plain")
    network = build_model(config["model"], seed=0).eval()
    images = torch.randint(256, (9, 3, 32, 32), dtype=torch.uint8)
    normalize = Normalizer(images)
    scaled = networks.Scaled(network, normalize.mean, normalize.deviation)
    torch.testing.assert_close(scaled(images.float() / 255), network(normalize(images)), rtol=1e-4, atol=1e-4)


def test_a_network_that_another_process_trains_is_waited_for(tmp_path, monkeypatch):
    run = Run(tmp_path, network_config("plain"))
    found: list[nn.Module] = []
    waiting = threading.Thread(target=lambda: found.append(trained_network(run.config, Place(tmp_path))))
    with lock(run):
        waiting.start()
        network_job(run, Place(tmp_path)).perform(lambda step: None)
        monkeypatch.setattr(networks, "_train", None)  # whoever trains it again fails
        assert not found
    waiting.join()
    assert not found[0].training


def test_a_pair_is_tried_at_the_least_change_that_fools_enough(tmp_path, monkeypatch):
    rates = {1 / 255: 0.1, 2 / 255: 0.39, 3 / 255: 0.45, 4 / 255: 0.8}
    asked: list[float] = []

    def fooled(method, networks, source, images, labels, settings, seed):
        assert settings["alpha"] == settings["eps"] / 4
        if (settings["steps"], settings["momentum"]) == (10, 0.0) and method == Method("I-FGSM"):
            asked.append(settings["eps"])
        return np.arange(2 * len(images)).reshape(2, -1) % 100 < 100 * rates[settings["eps"]]

    monkeypatch.setattr(runs, "_fooled", fooled)
    config = plan(Place(tmp_path), Scale.SMOKE).configs[0]
    several = {**config, "eps": list(rates), "alpha": [eps / 4 for eps in rates], "images": 100}
    for least, chosen in ((0.4, 3 / 255), (0.9, 4 / 255)):
        monkeypatch.setattr(runs, "FOOLED_AT_LEAST", least)
        run = Run(tmp_path / str(least), several)
        job(run, Place(tmp_path)).perform(lambda step: None)
        assert run.record["eps"] == chosen
    assert asked == [1 / 255, 2 / 255, 3 / 255, *rates]


def test_networks_that_agree_on_no_image_are_told(tmp_path):
    config = plan(Place(tmp_path), Scale.SMOKE).configs[0]
    strict = Run(tmp_path, {**config, "all_right": True, "networks": untrained(config["networks"])})
    with pytest.raises(RunError, match=r"both networks classify \d+ of 64 images rightly; train them for longer"):
        job(strict, Place(tmp_path)).perform(lambda step: None)


def untrained(configs):
    """At a learning rate of nearly nothing."""
    return {name: {**each, "recipe": {**each["recipe"], "learning_rate": 1e-12}} for name, each in configs.items()}
