import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop_lab.data import Polynomial
from linear_backprop_lab.models import MLPEnsemble, mlp
from linear_backprop_lab.training import train_ensemble

WIDTHS = (1, 20, 20, 1)
SEEDS = (0, 1, 2, 3)
RULES = (lb.Exact(), lb.Linear(), lb.PreActivation(), lb.Clipped())
LEARNING_RATE, STEPS, TOLERANCE = 1e-2, 120, 1.5
# In float64 the roundings of two orders of summation, 1e-16, grow over 120 steps of Adam; 1e-8 leaves them
# room, and is far below the 1e-2 that one step moves a parameter.
FLOAT64 = 1e-8
ACTIVATIONS = {nn.Tanh: torch.tanh, nn.ReLU: torch.relu}


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    points = Polynomial.sample(0)
    return points.train_inputs.double(), points.train_targets.double()


def ensemble(activation=torch.tanh, rule=None, seeds=SEEDS):
    return MLPEnsemble.from_seeds(WIDTHS, lb.with_rule(activation, rule or lb.Linear()), seeds).double()


def train_alone(seed, activation, rule, data):
    """The same network by itself: `nn.Linear`, `convert`, the textbook loop; (steps, its linear layers)."""
    inputs, targets = data
    torch.manual_seed(seed)
    model = mlp(WIDTHS, activation)
    lb.convert(model, rule)
    model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS + 1):
        loss = nn.functional.mse_loss(model(inputs), targets)
        if loss <= TOLERANCE or step == STEPS:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step, [module for module in model if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda made: made.__name__)
def test_each_network_trains_as_it_would_alone(rule, activation, data) -> None:
    model = ensemble(ACTIVATIONS[activation], rule)
    outcome = train_ensemble(model, *data, tolerance=TOLERANCE, max_steps=STEPS, learning_rate=LEARNING_RATE)
    for n, seed in enumerate(SEEDS):
        steps, layers = train_alone(seed, activation, rule, data)
        assert outcome.steps[n] == steps
        for layer, weight, bias in zip(layers, model.weights, model.biases, strict=True):
            torch.testing.assert_close(weight[n], layer.weight.T, rtol=FLOAT64, atol=FLOAT64)
            torch.testing.assert_close(bias[n], layer.bias, rtol=FLOAT64, atol=FLOAT64)


def test_the_networks_of_the_test_above_arrive_at_different_steps(data) -> None:
    outcome = train_ensemble(
        ensemble(torch.tanh, lb.Exact()), *data, tolerance=TOLERANCE, max_steps=STEPS, learning_rate=LEARNING_RATE
    )
    assert set(outcome.status) == {"arrived"}
    assert len(set(outcome.steps.tolist())) == len(SEEDS)


def test_an_arrived_network_keeps_the_parameters_it_arrived_with(data) -> None:
    inputs, targets = data
    model = ensemble(torch.tanh, lb.Exact())
    outcome = train_ensemble(model, inputs, targets, tolerance=TOLERANCE, max_steps=STEPS, learning_rate=LEARNING_RATE)
    errors = torch.stack([nn.functional.mse_loss(output, targets) for output in model(inputs)])
    torch.testing.assert_close(errors, outcome.train_mse, rtol=FLOAT64, atol=FLOAT64)
    assert (errors <= TOLERANCE).all()


def test_what_does_not_arrive_is_unfinished_after_the_last_step(data) -> None:
    outcome = train_ensemble(ensemble(), *data, tolerance=0.0, max_steps=7)
    assert outcome.status == ("unfinished",) * 4
    assert outcome.steps.tolist() == [7] * 4


def test_no_step_leaves_every_parameter_as_it_was(data) -> None:
    model, untouched = ensemble(), ensemble()
    train_ensemble(model, *data, tolerance=0.0, max_steps=0)
    for parameter, expected in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_diverged_network_is_recorded_and_disturbs_no_other(bad, data) -> None:
    model = ensemble(torch.tanh, lb.Exact(), seeds=(0, 1, 2))
    with torch.no_grad():
        model.biases[-1][1] = bad
    outcome = train_ensemble(model, *data, tolerance=TOLERANCE, max_steps=STEPS, learning_rate=LEARNING_RATE)
    healthy = train_ensemble(
        ensemble(torch.tanh, lb.Exact(), seeds=(0, 2)),
        *data,
        tolerance=TOLERANCE,
        max_steps=STEPS,
        learning_rate=LEARNING_RATE,
    )
    assert outcome.status == ("arrived", "diverged", "arrived")
    assert outcome.steps.tolist() == [healthy.steps[0], 0, healthy.steps[1]]


def test_training_that_diverges_later_is_recorded_where_it_does(data) -> None:
    outcome = train_ensemble(ensemble(torch.relu, lb.Exact()), *data, tolerance=0.0, max_steps=50, learning_rate=1e60)
    assert outcome.status == ("diverged",) * 4
    assert ((outcome.steps > 0) & (outcome.steps < 50)).all()
    assert not outcome.train_mse.isfinite().any()


def test_every_step_is_reported_with_the_errors_of_all_networks(data) -> None:
    seen: list[tuple[int, int]] = []
    outcome = train_ensemble(
        ensemble(torch.tanh, lb.Exact()),
        *data,
        tolerance=TOLERANCE,
        max_steps=STEPS,
        learning_rate=LEARNING_RATE,
        on_step=lambda step, errors: seen.append((step, int((errors <= TOLERANCE).sum()))),
    )
    assert [step for step, _ in seen] == list(range(1, int(outcome.steps.max()) + 1))
    for step, arrived in seen:
        assert arrived == (outcome.steps < step).sum()
