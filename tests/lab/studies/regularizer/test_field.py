from dataclasses import replace

import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop_lab.models import mlp
from linear_backprop_lab.studies.regularizer.field import asymmetry, by_differences, jacobian
from linear_backprop_lab.studies.regularizer.runs import initial, problem_of

MODULES = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softplus": nn.Softplus, "silu": nn.SiLU, "relu": nn.ReLU}


def problem(activation, rule, hidden_layers=2):
    config = {"activation": activation, "rule": rule, "inputs": 3, "units": 6, "outputs": 2, "points": 40}
    return problem_of(config, hidden_layers)


@pytest.mark.parametrize("hidden_layers", [1, 3])
@pytest.mark.parametrize("rule", [lb.Exact(), lb.Linear()])
@pytest.mark.parametrize("activation", MODULES)
def test_the_update_written_out_is_what_the_library_gives(activation, rule, hidden_layers):
    posed = problem(activation, repr(rule), hidden_layers)
    parameters = initial(posed.widths, seed=3, scale=1.0)
    model = mlp(posed.widths, MODULES[activation]).double()
    nn.utils.vector_to_parameters(parameters, model.parameters())
    lb.convert(model, rule)
    loss = (model(posed.inputs) - posed.targets).square().sum(1).mean() / 2
    loss.backward()
    given = torch.cat([each.grad.flatten() for each in model.parameters()])
    # Sums of at most 40 products in another order.
    torch.testing.assert_close(posed.update(parameters), given, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(posed.loss(parameters), loss.detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_under_backprop_the_jacobian_is_the_hessian_of_the_loss(activation):
    posed = problem(activation, "Exact()")
    parameters = initial(posed.widths, seed=1, scale=1.0)
    hessian = torch.func.hessian(posed.loss)(parameters)
    torch.testing.assert_close(jacobian(posed, parameters), hessian, rtol=1e-10, atol=1e-13)
    assert asymmetry(jacobian(posed, parameters)) < 1e-15


def test_finite_differences_find_the_same_jacobian_of_linear_backprop():
    posed = problem("sigmoid", "Linear()")
    parameters = initial(posed.widths, seed=1, scale=1.0)
    # Central differences of step 1e-6 round at 1e-16 / 1e-6.
    torch.testing.assert_close(by_differences(posed, parameters), jacobian(posed, parameters), rtol=0, atol=1e-9)


def test_asymmetry_is_0_of_a_gradient_1_of_equal_parts():
    symmetric, antisymmetric = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    assert asymmetry(symmetric) == 0 and asymmetry(symmetric + antisymmetric) == 1
    assert asymmetry(torch.stack([symmetric, symmetric + 0.5 * antisymmetric])).tolist() == [0, 0.5]


def test_the_mean_slopes_of_all_activations_above_multiply():
    """ReLU: one layer with every unit on, one with every unit off, one with half the points on."""
    posed = problem("relu", "Linear()", 1)
    parameters = torch.zeros(6 * 4 + 2 * 7, dtype=torch.float64)
    parameters[18:24] = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    assert posed.mean_slopes(parameters).tolist() == [0.5] * 24 + [1.0] * 14


def test_linear_activations_make_both_rules_one():
    posed = [replace(problem("tanh", rule), activation=lambda a: a) for rule in ("Exact()", "Linear()")]
    parameters = initial(posed[0].widths, seed=0, scale=1.0)
    assert posed[0].update(parameters).equal(posed[1].update(parameters))
    assert asymmetry(jacobian(posed[1], parameters)) < 1e-15
