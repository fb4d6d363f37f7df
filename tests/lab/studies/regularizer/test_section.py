import math

import pytest

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies import Place, Scale, experiments_named, jobs_of
from linear_backprop_lab.studies.regularizer.section import regularizer


def made_up(root, activation, rule, asymmetry, *, rescaled=1e-4, differences=1e-10, seeds=(0, 1)):
    config = {
        "experiment": "regularizer",
        "activation": activation,
        "rule": rule,
        "inputs": 3,
        "units": 6,
        "outputs": 2,
        "points": 40,
        "seeds": seeds,
    }
    run = Run(root, config)
    run.start()
    for scale, step in ((0.1, 0), (1.0, 0), (1.0, 10)):
        values = {"asymmetry": asymmetry, "rescaled": rescaled, "differences": differences}
        lists = {name: [value, None if step else value] for name, value in values.items()}
        run.log(hidden_layers=2, scale=scale, step=step, loss=[1, 1], **lists)
    run.close(status="finished", seconds=1)
    return run


def runs(root, tanh, relu, backprop=1e-16, **others):
    return [
        made_up(root, "tanh", "Exact()", backprop, **others),
        made_up(root, "tanh", "Linear()", tanh, **others),
        made_up(root, "relu", "Linear()", relu, **others),
    ]


@pytest.mark.parametrize(
    "found, verdict",
    [
        ({"tanh": 0.1, "relu": 0.3}, "does not hold"),
        ({"tanh": 0.9e-9, "relu": 0.3}, "partly"),
        ({"tanh": 0.9e-9, "relu": 0.9e-9}, "holds"),
        # Where Backprop's own is not symmetric, or the check fails, the measurement is not to be trusted.
        ({"tanh": 0.1, "relu": 0.3, "backprop": 1.1e-9}, "not decided"),
        ({"tanh": 0.1, "relu": 0.3, "differences": 1.1e-6}, "not decided"),
    ],
)
def test_a_term_exists_where_the_jacobian_is_symmetric(tmp_path, found, verdict):
    claim = regularizer(runs(tmp_path, **found)).claims[0]
    assert claim.verdict == verdict
    assert f"tanh {found['tanh']:.2f} to {found['tanh']:.2f}, ReLU" in claim.measured
    assert "at most 1e-09" in claim.how


def test_nearly_a_gradient_is_judged_at_the_smallest_scale_layers_rescaled(tmp_path):
    assert regularizer(runs(tmp_path / "a", 0.1, 0.3)).claims[1].verdict == "holds"
    shown = [*runs(tmp_path / "b", 0.1, 0.3)[:2], made_up(tmp_path / "c", "relu", "Linear()", 0.3, rescaled=0.011)]
    claim = regularizer(shown).claims[1]
    assert claim.verdict == "partly"
    assert claim.measured == "at 0.1 of PyTorch's initialisation at most 0.0001 (tanh), 0.01 (ReLU)"


def test_a_smaller_set_of_runs_does_not_count(tmp_path):
    found, small = runs(tmp_path, 0.1, 0.3), made_up(tmp_path, "silu", "Linear()", 0.5, seeds=(0,))
    assert regularizer([small, *found]) == regularizer(found)


def test_backprop_alone_makes_no_claim(tmp_path):
    section = regularizer(runs(tmp_path, 0.1, 0.3)[:1])
    assert section.claims == section.figures == ()


def test_the_smallest_scale_runs_and_is_read(tmp_path):
    jobs = jobs_of(experiments_named(["regularizer"]), Place(tmp_path), Scale.SMOKE)
    steps = []
    for job in jobs[:2]:
        job.perform(steps.append)
        for line in job.run.metrics:
            assert all(math.isfinite(value) for name in ("loss", "asymmetry", "differences") for value in line[name])
    assert steps == [1, 1]
    # One layer, tanh, PyTorch's initialisation: no gradient.
    assert regularizer([job.run for job in jobs[:2]]).claims[0].verdict == "does not hold"
