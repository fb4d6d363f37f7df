"""The table of a conversion tells the truth: what is listed as changed is changed, what is not is listed as left."""

import pytest
import torch
from forms import OUT_OF_PLACE, Case
from torch import Tensor, nn

import linear_backprop as lb

by_form = pytest.mark.parametrize("case", OUT_OF_PLACE, ids=lambda case: case.label)


class Calls(nn.Module):
    """A layer, and a function called on its output."""

    def __init__(self, function) -> None:
        super().__init__()
        self.below = nn.Linear(3, 3).double()
        self.function = [function]

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self.below(x))


X = torch.linspace(-2, 2, 12, dtype=torch.float64).view(4, 3)


@by_form
def test_every_form_is_listed_as_changed_where_it_is(case: Case):
    model = Calls(lambda z: case.run(case.function, z))
    with lb.convert(model) as conversion:
        x = X.clone().requires_grad_()
        (g,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(g, model.below.weight.sum(0).expand(4, 3))
    assert [site.what for site in conversion.changed] == [f"{case.function.__name__} (called)"]


@by_form
def test_what_runs_inside_a_function_with_a_backward_pass_of_its_own_is_left(case: Case):
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z: Tensor) -> Tensor:
            return case.run(case.function, z)

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            return 7 * g

    model = Calls(Own.apply)
    conversion = lb.convert(model)
    with pytest.warns(UserWarning, match="none follows the rule"):
        model(X).sum().backward()
    assert not conversion.changed
    assert "inside a `torch.autograd.Function`" in conversion.unchanged[0].reason
    assert model.below.bias.grad.tolist() == [28, 28, 28]


def test_what_ran_without_grad_is_listed_as_left_until_it_runs_with_it():
    model = Calls(torch.tanh)
    conversion = lb.convert(model)
    with torch.no_grad():
        model(X)
    assert not conversion.changed and "torch.no_grad()" in conversion.unchanged[0].reason
    model(X)
    assert [site.what for site in conversion.changed] == ["tanh (called)"] and not conversion.unchanged
    with torch.no_grad():
        model(X)
    assert len(conversion.changed) == 1


@torch.jit.script
def scripted(z: Tensor) -> Tensor:
    return z.tanh()


def test_functions_in_torchscript_are_listed_as_out_of_reach():
    class Scripted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scripted(x.relu())

    conversion = lb.convert(Scripted())
    assert [(site.what, site.reason.split(":")[0]) for site in conversion.unchanged] == [
        ("scripted (called)", "TorchScript")
    ]


@pytest.mark.parametrize("name", ["sin", "erf", "exp", "abs"])
@pytest.mark.parametrize("owner", [torch, torch.Tensor, torch.ops.aten])
def test_elementwise_functions_outside_the_catalogue_are_listed(name: str, owner):
    model = Calls(lambda z: getattr(owner, name)(z).tanh())
    conversion = lb.convert(model)
    model(X)
    assert {site.what: site.reason.split(",")[0] for site in conversion.unchanged} == {
        f"{name} (called)": "elementwise"
    }


WRITTEN_OUT = {
    "new gelu": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3)))),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "swish": lambda x: x.sigmoid().mul(x),
    "division": lambda x: x / (torch.relu(-x) + 1),
}


@pytest.mark.parametrize("function", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_activations_in_arithmetic_are_flagged(function):
    class Act(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x)

    model = nn.Sequential(nn.Linear(3, 3).double(), Act(), Plain())
    conversion = lb.convert(model)
    for _ in range(2):
        model(X)
    assert [bool(site.note) for site in conversion.changed] == [True, False]
    assert "it alone: the arithmetic around it keeps its derivative" in str(conversion)


def test_activations_that_transformers_writes_out_follow_as_a_whole():
    activations = pytest.importorskip("transformers.activations")
    for name in activations.ACT2FN:
        try:
            model = nn.Sequential(nn.Linear(3, 3).double(), activations.ACT2FN[name])
        except (ImportError, TypeError):
            continue
        left_out = nn.Identity | nn.Softmax | activations.LinearActivation
        if [*model[1].parameters()] or isinstance(model[1], left_out):
            continue
        x = X.clone().requires_grad_()
        expected = model(x)
        with lb.convert(model):
            got = model(x)
            (g,) = torch.autograd.grad(got.sum(), x)
        assert torch.equal(got, expected), name
        torch.testing.assert_close(g, model[0].weight.sum(0).expand(4, 3), msg=name)


def test_the_table_says_when_calls_are_listed_and_that_a_conversion_was_removed():
    model = nn.Sequential(Calls(torch.tanh), nn.ReLU())
    conversion = lb.convert(model)
    assert "what the modules' own code calls is listed once it has run" in str(conversion)
    model(X)
    assert "once it has run" not in str(conversion)
    conversion.remove()
    assert str(conversion).endswith("removed; before: 2 changed, 0 left alone")
    assert repr(conversion) == "<Conversion to Linear(): removed; before: 2 changed, 0 left alone>"
    assert "once it has run" not in str(lb.convert(nn.Sequential(nn.Linear(3, 3), nn.ReLU())))
