import math

import numpy as np
import pytest

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import gather
from linear_backprop_lab.studies.collapse.section import collapse
from linear_backprop_lab.studies.collapse.table import studies

MODEL = {"name": "mlp", "activation": "ReLU", "widths": [3072, 512, 256, 10]}
OTHER = {"name": "vgg19", "activation": "ReLU", "width": 0.125}
# 60 images in batches of 16: 4 steps an epoch.
RECIPE = {"epochs": 2, "batch_size": 16, "optimizer": "adam"}
FAST, SLOW = 0.1, 0.25


def config(part, method, rate, seed, model):
    return {
        "experiment": "collapse",
        "part": part,
        "data": "cifar10",
        "train_images": 60,
        "test_images": 50,
        "model": model,
        "method": method,
        "recipe": {**RECIPE, "learning_rate": rate, "seed": seed},
    }


def trained(root, method, curves, *, rate=1e-3, model=MODEL, part="train", status="finished"):
    """A run a curve, its seed the curve's position."""
    runs = []
    for seed, curve in enumerate(curves):
        run = Run(root, config(part, method, rate, seed, model))
        run.start()
        for epoch, accuracy in enumerate(curve, start=1):
            run.log(epoch=epoch, test_accuracy=accuracy)
        run.close(source="made up; 60 of its 70 images", status=status, test_accuracy=curve[-1])
        runs.append(run)
    return runs


def timed(root, seconds, model=MODEL, rounds=5):
    run = Run(root, {"experiment": "collapse-timing", "part": "timing", "rounds": rounds, "cases": [model]})
    run.start()
    run.log(model=model, batch_size=16, seconds=seconds)
    run.close(seconds=1.0)
    return [run]


def backprop(root, **settings):
    """Ends at 0.50 with a standard error of 0.02 / sqrt(3)."""
    return trained(root, "backprop", [(0.3, 0.48), (0.3, 0.50), (0.3, 0.52)], **settings)


def of(runs, method="linear"):
    (study,) = studies(runs)
    return study.methods[method]


def verdicts(runs):
    """By the first words of the claim."""
    return {claim.claim: claim.verdict for claim in collapse(runs).claims}


def test_of_several_scales_the_one_with_the_most_training_counts(tmp_path):
    shorter = Run(tmp_path, {**config("train", "backprop", 1e-3, 0, MODEL), "train_images": 20})
    shorter.start()
    shorter.log(epoch=1, test_accuracy=0.9)
    shorter.close(source="made up", status="finished", test_accuracy=0.9)
    for runs in ([shorter, *backprop(tmp_path / "1")], [*backprop(tmp_path / "2"), shorter]):
        assert of(runs, "backprop").accuracy == pytest.approx(0.5)


def test_means_and_standard_errors_are_those_of_numpy(tmp_path):
    each = of(backprop(tmp_path), "backprop")
    assert each.accuracy == pytest.approx(np.mean([0.48, 0.50, 0.52]))
    assert each.error == pytest.approx(np.std([0.48, 0.50, 0.52], ddof=1) / math.sqrt(3))
    assert each.curve == pytest.approx([0.1, 0.3, 0.5])
    assert list(each.samples) == [0, 60, 120]


def test_seconds_are_steps_times_the_timed_step(tmp_path):
    each = of(backprop(tmp_path) + timed(tmp_path, {"backprop": 0.25}), "backprop")
    assert list(each.seconds) == [0, 1, 2]
    # From 0.1 at the start to 0.3 after one second to 0.5 after two.
    assert each.seconds_to(0.2) == pytest.approx(0.5)
    assert each.seconds_to(0.45) == pytest.approx(1.75)
    assert each.seconds_to(0.5) == pytest.approx(2)
    assert each.seconds_to(0.51) is None


def test_without_a_timing_of_this_model_there_are_no_seconds(tmp_path):
    each = of(backprop(tmp_path) + timed(tmp_path, {"backprop": 0.25}, OTHER), "backprop")
    assert each.seconds is None and each.seconds_to(0.2) is None


def test_the_timing_of_most_rounds_counts(tmp_path):
    timings = timed(tmp_path, {"backprop": 9.0}, rounds=3) + timed(tmp_path, {"backprop": 0.5}, rounds=20)
    assert of(backprop(tmp_path) + timings, "backprop").seconds_per_step == 0.5


def test_a_diverged_run_keeps_its_last_accuracy(tmp_path):
    each = of(trained(tmp_path, "linear", [(0.2,), (0.2,)], status="diverged"))
    assert each.curve == pytest.approx([0.1, 0.2, 0.2])
    assert each.diverged == 2


@pytest.mark.parametrize(
    "ends, expected",
    [
        ((0.48, 0.50, 0.52), "holds"),
        ((0.60, 0.60, 0.60), "holds"),
        # Both standard errors are 0.0115, that of the difference 0.0163.
        ((0.465, 0.485, 0.505), "holds"),
        ((0.463, 0.483, 0.503), "does not hold"),
    ],
)
def test_level_is_within_one_standard_error_of_the_difference(tmp_path, ends, expected):
    runs = backprop(tmp_path) + trained(tmp_path, "local-mean", [(0.2, end) for end in ends])
    assert verdicts(runs)["LocallyExact(MeanLinear), collapsed, reaches Backprop's accuracy."] == expected


def test_what_holds_on_one_model_alone_holds_partly_and_says_where_backprop_wins(tmp_path):
    runs = backprop(tmp_path) + trained(tmp_path, "linear", [(0.2, 0.5)] * 3)
    runs += backprop(tmp_path, model=OTHER) + trained(tmp_path, "linear", [(0.2, 0.3)] * 3, model=OTHER)
    claim = next(claim for claim in collapse(runs).claims if claim.claim.startswith("Linear Backprop, collapsed"))
    assert claim.verdict == "partly"
    assert claim.measured == (
        "MLP 512-256, ReLU: 50.0 ± 0.0% against 50.0 ± 1.2% under Backprop; "
        "VGG19 width 0.125, ReLU: 30.0 ± 0.0% against 50.0 ± 1.2% under Backprop, Backprop wins"
    )


def test_one_seed_decides_nothing(tmp_path):
    runs = trained(tmp_path, "backprop", [(0.3, 0.5)]) + trained(tmp_path, "linear", [(0.3, 0.2)])
    assert set(verdicts(runs).values()) == {"not decided"}
    assert [row[4] for row in collapse(runs).table.rows] == ["50.0%", "20.0%"]


@pytest.mark.parametrize(
    "curve, step, fast, sooner, nearly",
    [
        # Level and 2.5 times faster.
        ((0.3, 0.5), FAST, "holds", "holds", "holds"),
        # Level, but no faster: Backprop needs as long.
        ((0.3, 0.5), SLOW, "does not hold", "does not hold", "does not hold"),
        # Faster and never there, but near it: 0.46 of 0.50.
        ((0.3, 0.46), FAST, "does not hold", "does not hold", "holds"),
        # Faster, and far from it.
        ((0.3, 0.4), FAST, "does not hold", "does not hold", "does not hold"),
    ],
)
def test_speed_counts_at_backprops_accuracy_alone(tmp_path, curve, step, fast, sooner, nearly):
    runs = backprop(tmp_path) + trained(tmp_path, "above:layers.1", [curve] * 3)
    runs += timed(tmp_path, {"backprop": SLOW, "above:layers.1": step})
    found = [verdict for claim, verdict in verdicts(runs).items() if "time" in claim]
    assert found == [fast, sooner, nearly]


def test_the_table_lists_every_method_in_the_order_of_the_timing(tmp_path):
    runs = trained(tmp_path, "above:stage1", [(0.3, 0.5)] * 3) + trained(tmp_path, "above:stem", [(0.3, 0.44)] * 3)
    runs += backprop(tmp_path)
    runs += timed(tmp_path, {"backprop": SLOW, "above:stem": FAST, "above:stage1": 0.125})
    for rate in (1e-4, 1e-3):
        runs += trained(tmp_path, "above:stem", [(0.1, 0.2)], part="sweep", rate=rate)
    section = collapse(runs)
    assert section.table is not None
    assert section.table.rows == (
        ("MLP 512-256, ReLU", "Backprop", "0.001", "3", "50.0 ± 1.2%", "250.0", "1.00", "2.0 s", "1.8 s"),
        (
            "MLP 512-256, ReLU",
            "Linear above stem",
            "0.001, at the edge of the sweep",
            "3",
            "44.0 ± 0.0%",
            "100.0",
            "2.50",
            "-",
            "-",
        ),
        (
            "MLP 512-256, ReLU",
            "Linear above stage1",
            "0.001",
            "3",
            "50.0 ± 0.0%",
            "125.0",
            "2.00",
            "1.0 s",
            "0.9 s",
        ),
    )
    assert section.asked.endswith("Data: made up.")
    assert "at the learning rate of 0.0001, 0.001 that was best" in section.asked


@pytest.mark.parametrize(
    "model, name",
    [
        ({"name": "mlp", "activation": "Tanh", "widths": [3072, 512, 512, 512, 10]}, "MLP 3 x 512, tanh"),
        ({"name": "mlp", "activation": "ReLU", "widths": [3072, 512, 10]}, "MLP 512, ReLU"),
        ({"name": "residual", "activation": "ReLU", "widths": [8, 16]}, "residual convnet 8-16, ReLU"),
    ],
)
def test_models_are_named_in_few_words(tmp_path, model, name):
    assert [study.name for study in studies(backprop(tmp_path, model=model))] == [name]


def test_a_figure_a_model_with_seconds_where_they_were_timed(tmp_path):
    runs = backprop(tmp_path) + backprop(tmp_path, model=OTHER) + timed(tmp_path, {"backprop": SLOW})
    mlp, vgg = collapse(runs).figures
    assert mlp.title == "Test accuracy: MLP 512-256, ReLU"
    assert "against seconds of training" in mlp.svg and "against seconds of training" not in vgg.svg
    assert mlp.caption.startswith("60 training and 50 test images, 2 epochs, batches of 16, Adam; the mean of 3 seeds")


def test_the_timing_is_shown_with_what_was_trained(tmp_path):
    runs = backprop(tmp_path) + timed(tmp_path, {"backprop": SLOW})
    (chapter,) = gather(tmp_path).chapters
    assert {run.key for run in chapter.runs} == {run.key for run in runs}
    assert chapter.section.table == collapse(runs).table


@pytest.mark.parametrize("part", ["sweep", "timing"])
def test_a_section_can_be_drawn_before_anything_is_trained(tmp_path, part):
    runs = timed(tmp_path, {"backprop": 1}) if part == "timing" else trained(tmp_path, "linear", [(1, 1)], part=part)
    section = collapse(runs)
    assert section.figures == () and section.claims == () and "Data: none yet," in section.asked


def test_a_timing_alone_is_a_report(tmp_path):
    timed(tmp_path, {"backprop": 1.0, "linear": 0.5})
    (chapter,) = gather(tmp_path).chapters
    assert chapter.section.id == "collapse" and len(chapter.runs) == 1
