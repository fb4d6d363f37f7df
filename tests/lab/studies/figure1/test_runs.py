import json

import numpy as np
import pytest
import torch
from torch import nn

from linear_backprop_lab.data import Polynomial
from linear_backprop_lab.models import mlp
from linear_backprop_lab.records import Run, RunError
from linear_backprop_lab.studies import Place
from linear_backprop_lab.studies.figure1.runs import configs
from linear_backprop_lab.studies.figure1.runs import job as job_of

FUNCTIONS = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
}
# Float32 networks against float64 NumPy.
FLOAT32 = 1e-5


def jobs_by_setting(root, **settings):
    return {(c["activation"], c["rule"]): job_of(Run(root, c), Place(root)) for c in configs(**settings)}


def perform(job):
    steps: list[int] = []
    job.perform(steps.append)
    return steps


def numpy_networks(config, x):
    """Every untrained network by hand: predictions (N, samples), and a and h, (N, layers, samples, units)."""
    f = FUNCTIONS[config["activation"]]
    predictions, pre_activations, activations = [], [], []
    for seed in config["seeds"]:
        torch.manual_seed(seed)
        layers = [layer for layer in mlp(config["widths"], nn.Identity) if isinstance(layer, nn.Linear)]
        weights = [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in layers]
        h, all_a, all_h = x[:, None].astype(np.float64), [], []
        for weight, bias in weights[:-1]:
            a = h @ weight.T + bias
            h = f(a)
            all_a.append(a)
            all_h.append(h)
        predictions.append((h @ weights[-1][0].T + weights[-1][1])[:, 0])
        pre_activations.append(all_a)
        activations.append(all_h)
    return np.array(predictions), np.array(pre_activations), np.array(activations)


def test_every_activation_meets_every_rule_on_the_papers_network(tmp_path) -> None:
    jobs = jobs_by_setting(tmp_path)
    rules = {"Exact()", "Linear()", "PreActivation()"}
    assert set(jobs) == {(activation, rule) for activation in FUNCTIONS for rule in rules}
    for job in jobs.values():
        assert job.run.config["widths"] == [1, 50, 50, 50, 50, 1]
        assert job.run.config["seeds"] == list(range(50))
        assert job.run.config["tolerance"] == 1e-6
        assert job.steps == job.run.config["max_steps"]


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_the_record_of_untrained_networks_is_what_numpy_makes_of_them(tmp_path, activation) -> None:
    job = jobs_by_setting(tmp_path, initialisations=3, max_steps=0)[activation, "Linear()"]
    perform(job)
    data = Polynomial.sample(0)
    samples = {"points": data.train_inputs[:, 0].numpy(), "grid": data.test_inputs[:, 0].numpy()}
    for name, x in samples.items():
        predictions, *units = numpy_networks(job.run.config, x)
        arrays = job.run.arrays(name)
        for quantity, values in zip(("pre_activations", "activations"), units, strict=True):
            means = np.abs(values).mean(axis=(2, 3))
            np.testing.assert_allclose(arrays[f"{quantity}_mean_abs"], means, rtol=FLOAT32, atol=FLOAT32)
            edges = arrays[f"{quantity}_edges"]
            for k, counts in enumerate(arrays[f"{quantity}_counts"]):
                expected, _ = np.histogram(values[:, k], bins=edges)
                assert counts.sum() == values[:, k].size
                # A value within rounding of an edge may fall on either side.
                assert np.abs(counts - expected).sum() <= 0.005 * values[:, k].size + 4
    errors = ((predictions - data.test_targets[:, 0].double().numpy()) ** 2).mean(axis=1)
    np.testing.assert_allclose(job.run.arrays("predictions")["predictions"], predictions, rtol=FLOAT32, atol=FLOAT32)
    np.testing.assert_allclose(job.run.arrays("networks")["test_mse"], errors, rtol=FLOAT32)


def test_the_closing_record_counts_and_summarises_the_networks(tmp_path) -> None:
    job = jobs_by_setting(tmp_path, initialisations=5, max_steps=255)["relu", "Exact()"]
    perform(job)
    networks, record = job.run.arrays("networks"), job.run.record
    assert 0 < record["arrived"] < 5
    assert record["arrived"] == (networks["train_mse"] <= 1e-6).sum()
    assert record["arrived"] + record["unfinished"] + record["diverged"] == record["networks"] == 5
    assert record["median_test_mse"] == pytest.approx(sorted(networks["test_mse"])[2])
    assert record["median_steps"] == sorted(networks["steps"])[2]
    assert (networks["steps"][networks["status"] == "unfinished"] == 255).all()


def test_progress_is_logged_and_reported(tmp_path) -> None:
    job = jobs_by_setting(tmp_path, initialisations=2, max_steps=250)["tanh", "Linear()"]
    assert perform(job) == [100, 200]
    assert [line["step"] for line in job.run.metrics] == [100, 200]
    assert all(line["arrived"] == 0 and line["median_train_mse"] > 1e-6 for line in job.run.metrics)


def test_the_same_seeds_give_the_same_numbers(tmp_path) -> None:
    records = []
    for attempt in ("first", "second"):
        job = jobs_by_setting(tmp_path / attempt, initialisations=3, max_steps=40)["tanh", "Linear()"]
        perform(job)
        records.append({name: job.run.arrays(name) for name in ("networks", "predictions", "points", "grid")})
    for name, arrays in records[0].items():
        for key, values in arrays.items():
            np.testing.assert_array_equal(values, records[1][name][key])


def test_rules_start_alike_and_part_in_training(tmp_path) -> None:
    for max_steps, alike in ((0, True), (2, False)):
        jobs = jobs_by_setting(tmp_path, initialisations=2, max_steps=max_steps)
        curves = []
        for rule in ("Exact()", "Linear()", "PreActivation()"):
            perform(jobs["tanh", rule])
            curves.append(jobs["tanh", rule].run.arrays("predictions")["predictions"])
        assert np.array_equal(curves[0], curves[1]) is alike
        assert np.array_equal(curves[1], curves[2]) is alike


def test_a_complete_run_is_not_run_again(tmp_path) -> None:
    settings = {"initialisations": 2, "max_steps": 1}
    perform(jobs_by_setting(tmp_path, **settings)["relu", "Linear()"])
    again = jobs_by_setting(tmp_path, **settings)["relu", "Linear()"]
    assert again.run.is_complete
    with pytest.raises(RunError, match="is complete; remove the folder to run it again"):
        perform(again)


def test_a_killed_run_is_run_afresh_and_threads_are_given_back(tmp_path) -> None:
    job = jobs_by_setting(tmp_path, initialisations=2, max_steps=200)["relu", "Linear()"]
    threads = torch.get_num_threads()

    def interrupt(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.perform(interrupt)
    assert torch.get_num_threads() == threads
    assert not job.run.is_complete
    perform(job)
    assert job.run.is_complete
    assert [line["step"] for line in job.run.metrics] == [100, 200]


def test_networks_that_are_not_finite_still_make_a_record_of_strict_json(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("linear_backprop_lab.studies.figure1.runs._LEARNING_RATE", 1e30)
    job = jobs_by_setting(tmp_path, initialisations=3, max_steps=20)["relu", "Exact()"]
    perform(job)
    assert job.run.record["diverged"] == 3
    assert job.run.record["median_test_mse"] is None
    text = (job.run.folder / "record.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
