import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from linear_backprop_lab.data import ImageDataset
from linear_backprop_lab.models._binarized import BinarizedLinear
from linear_backprop_lab.records import Run, RunError
from linear_backprop_lab.training import Recipe, train


def small_data() -> ImageDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 100, (60, 3, 32, 32), generator=generator, dtype=torch.uint8)
    images += (60 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageDataset("made-up", images[:42], labels[:42], images[42:], labels[42:], ("a", "b", "c"), "a test")


def small_model() -> nn.Module:
    """With what a checkpoint has to bring back: buffers, and random numbers drawn in the forward pass."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(196, 3)
    )


RECIPE = Recipe(epochs=4, batch_size=16, learning_rate=0.05, momentum=0.9, weight_decay=1e-3)


def trained(root, recipe=RECIPE, **options):
    model, run = small_model(), Run(root, {"experiment": "small"})
    train(model, small_data(), recipe, run, **options)
    return model, run


def without_time(run):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.metrics]


def assert_same(one, other):
    """Two outcomes of `trained`, to the bit."""
    assert without_time(one[1]) == without_time(other[1])
    for name, value in one[0].state_dict().items():
        assert torch.equal(value, other[0].state_dict()[name]), name


def test_is_stochastic_gradient_descent_on_cross_entropy(tmp_path):
    """Softmax regression on the full batch, beside its gradient written out in NumPy."""
    data, recipe = small_data(), Recipe(epochs=6, learning_rate=0.01, momentum=0.9, weight_decay=0.1, augment=False)
    torch.manual_seed(0)
    model, run = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)).double(), Run(tmp_path, {"experiment": "small"})
    parameters = [p.detach().numpy().copy() for p in model[1].parameters()]
    train(nn.Sequential(ToDouble(), model), data, recipe, run)

    pixels, tests = (images.numpy().astype(float) for images in (data.train_images, data.test_images))
    mean = pixels.mean(axis=(0, 2, 3), keepdims=True)
    deviation = pixels.std(axis=(0, 2, 3), ddof=1, keepdims=True)
    inputs, test_inputs = (((x - mean) / deviation).reshape(len(x), -1) for x in (pixels, tests))
    labels, test_labels = data.train_labels.numpy(), data.test_labels.numpy()
    velocity = [np.zeros_like(p) for p in parameters]
    for line in run.metrics:
        probabilities, loss, accuracy = softmax_regression(parameters, inputs, labels)
        # Images are normalised in float32.
        assert line["train_loss"] == pytest.approx(loss, rel=1e-5)
        assert line["train_accuracy"] == pytest.approx(accuracy)
        residual = (probabilities - np.eye(3)[labels]) / len(labels)
        for p, v, gradient in zip(parameters, velocity, (residual.T @ inputs, residual.sum(0)), strict=True):
            v[:] = 0.9 * v + gradient + 0.1 * p
            p -= 0.01 * v
        _, loss, accuracy = softmax_regression(parameters, test_inputs, test_labels)
        assert line["test_loss"] == pytest.approx(loss, rel=1e-5)
        assert line["test_accuracy"] == pytest.approx(accuracy)
    assert run.metrics[-1]["train_loss"] < run.metrics[0]["train_loss"]
    assert [line["epoch"] for line in run.metrics] == [1, 2, 3, 4, 5, 6]


class ToDouble(nn.Module):
    def forward(self, images):
        return images.double()


def softmax_regression(parameters, inputs, labels):
    weight, bias = parameters
    logits = inputs @ weight.T + bias
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    loss = -np.log(probabilities[np.arange(len(labels)), labels]).mean()
    return probabilities, loss, (logits.argmax(axis=1) == labels).mean()


def test_the_seed_decides(tmp_path):
    first = trained(tmp_path / "first")
    assert_same(first, trained(tmp_path / "second"))
    other = Recipe(epochs=4, batch_size=16, learning_rate=0.05, momentum=0.9, weight_decay=1e-3, seed=1)
    assert without_time(trained(tmp_path / "third", other)[1]) != without_time(first[1])


def test_leaves_the_random_numbers_and_the_images_of_others_alone(tmp_path):
    data, before = small_data(), torch.get_rng_state()
    model, run = small_model(), Run(tmp_path, {"experiment": "small"})
    torch.set_rng_state(before)
    train(model, data, RECIPE, run)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(data.train_images, small_data().train_images)


class Killed(BaseException):
    """What stops a run in the middle, as an interrupt would."""


@pytest.mark.parametrize("last_step", [1, 3, 4, 8, 11])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, last_step):
    undisturbed = trained(tmp_path / "undisturbed")

    def stop(step):
        if step == last_step:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path / "stopped", on_step=stop)
    seen = []
    assert_same(undisturbed, trained(tmp_path / "stopped", on_step=seen.append))
    # Three steps an epoch: what is done twice is the epoch that was under way.
    assert seen == list(range((last_step - 1) // 3 * 3 + 1, 13))


def test_a_killed_process_loses_the_epoch_under_way_at_most(tmp_path):
    script = textwrap.dedent(f"""
        import sys, time, torch
        torch.set_num_threads(1)
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_loop import trained
        trained(Path({str(tmp_path / "killed")!r}), on_step=lambda step: time.sleep(0.02))
    """)
    metrics = Run(tmp_path / "killed", {"experiment": "small"}).folder / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 300
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= 2):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
    resumed_from = []
    resumed = trained(tmp_path / "killed", on_step=resumed_from.append)
    # The second epoch's line was there; its checkpoint may not have been.
    assert resumed_from[0] in (4, 7, 10)
    assert_same(resumed, trained(tmp_path / "undisturbed"))


def test_divergence_is_a_result(tmp_path):
    model, run = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), Run(tmp_path, {"experiment": "small"})
    train(model, small_data(), Recipe(epochs=4, learning_rate=1e38), run)
    assert run.is_complete
    assert run.record["status"] == "diverged"
    assert run.record["epochs"] == len(run.metrics) < 4

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        last = json.loads(line, parse_constant=refuse)
    assert last["test_loss"] is None


def test_the_closing_record_sums_up_the_metrics(tmp_path):
    _, run = trained(tmp_path)
    accuracies = [line["test_accuracy"] for line in run.metrics]
    assert run.record == {
        "source": "a test",
        "status": "finished",
        "epochs": 4,
        "test_accuracy": accuracies[-1],
        "best_test_accuracy": max(accuracies),
        "seconds": pytest.approx(sum(line["seconds"] for line in run.metrics)),
    }
    assert not list(run.folder.glob("checkpoint*"))


def test_a_complete_run_is_not_run_again(tmp_path):
    trained(tmp_path)
    with pytest.raises(RunError, match="is complete; remove the folder to run it again"):
        trained(tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path):
    run = Run(tmp_path, {"experiment": "small"})
    run.start()
    (run.folder / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RunError, match=r"checkpoint\.pt cannot be read .*made anew"):
        trained(tmp_path)


def test_held_out_images_are_judged_and_not_trained_on(tmp_path):
    data = small_data().hold_out(12, seed=3)
    kept = ImageDataset("made-up", data.train_images, data.train_labels, data.test_images, data.test_labels, (), "")
    model, run = small_model(), Run(tmp_path / "held-out", {"experiment": "small"})
    train(model, data, RECIPE, run)
    without, run_without = small_model(), Run(tmp_path / "without", {"experiment": "small"})
    train(without, kept, RECIPE, run_without)
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any("held_out" in key for key in run_without.metrics[0])

    pixels = data.train_images.double()
    mean, deviation = pixels.mean(dim=(0, 2, 3), keepdim=True), pixels.std(dim=(0, 2, 3), keepdim=True)
    with torch.no_grad():
        logits = model.eval()(((data.held_out_images - mean) / deviation).float())
    assert run.metrics[-1]["held_out_accuracy"] == (logits.argmax(1) == data.held_out_labels).double().mean()
    # Images are normalised in float32.
    expected = nn.functional.cross_entropy(logits, data.held_out_labels).item()
    assert run.metrics[-1]["held_out_loss"] == pytest.approx(expected, rel=1e-4)
    assert run.metrics[-1]["held_out_top5_error"] == 0  # There are three classes.


def test_diagnostics_change_nothing_else(tmp_path):
    plain = trained(tmp_path / "plain")
    looked_at = trained(tmp_path / "looked-at", replace(RECIPE, diagnostics=True))
    assert looked_at[1].record["activations"] == ["2"]
    assert looked_at[1].record["weights"] == ["0.weight", "5.weight"]
    lines = [
        {key: value for key, value in line.items() if key in plain[1].metrics[0] and key != "seconds"}
        for line in looked_at[1].metrics
    ]
    assert lines == without_time(plain[1])
    assert all(torch.equal(value, looked_at[0].state_dict()[name]) for name, value in plain[0].state_dict().items())


def test_binarized_weights_stay_within_one(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Hardtanh(), BinarizedLinear(3072, 3))
    train(model, small_data(), Recipe(epochs=1, learning_rate=100.0, batch_size=16), Run(tmp_path, {"experiment": "x"}))
    weight = model[2].weight.detach()
    assert weight.abs().max() == 1 and (weight.abs() == 1).float().mean() > 0.1
    assert model[2].bias.abs().max() > 1


@pytest.mark.parametrize(
    "options, tolerance",
    [
        # Another order of summation.
        ({"channels_last": False}, 1e-4),
        ({"compile": True}, 1e-4),
        # bfloat16 has 8 bits: 0.4 % a product, over a few layers and eight steps.
        ({"precision": "bf16"}, 3e-2),
    ],
)
def test_how_it_is_computed_does_not_change_what_is_learned(tmp_path, options, tolerance):
    runs = []
    plain = replace(RECIPE, batch_size=21)  # Twice an epoch: each size is compiled for itself.
    for number, recipe in enumerate([plain, replace(plain, **options)]):
        model, run = small_model(), Run(tmp_path / str(number), {"experiment": "small"})
        del model[3]  # Dropout draws in the order of memory, and compiled code draws other numbers.
        train(model, small_data(), recipe, run)
        runs.append(run)
    for expected, line in zip(*(run.metrics for run in runs), strict=True):
        assert line["train_loss"] == pytest.approx(expected["train_loss"], rel=tolerance)
        assert line["test_loss"] == pytest.approx(expected["test_loss"], rel=tolerance)


@pytest.mark.parametrize("images, steps", [(42, 12), (48, 12), (49, 16), (1, 4)])
def test_steps_counts_the_last_batch_too(images, steps):
    assert RECIPE.steps(images) == steps
