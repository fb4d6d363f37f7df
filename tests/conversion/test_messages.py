"""Messages for what a newcomer tries: each says what was given and what to do."""

from dataclasses import dataclass

import pytest
import torch
from forms import RULES
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb


@dataclass(frozen=True)
class Scaled(lb.BackwardRule):
    factor: float = 0.5

    def cotangent(self, g: Tensor, a: Tensor, f: lb.Elementwise) -> Tensor:
        return self.factor * g


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU())


MISTAKES = {
    "where a class": (
        lambda: lb.convert(model(), where=nn.ReLU),
        r"where=ReLU is a class; .*where=lambda path, module: isinstance\(module, ReLU\)",
    ),
    "where classes": (
        lambda: lb.convert(model(), where=[nn.ReLU]),
        r"where=ReLU is a class; .*isinstance\(module, ReLU\)",
    ),
    "where a module": (
        lambda: lb.convert(model(), where=nn.ReLU()),
        r"where must be a glob on modules' paths, .*, got ReLU\(\)",
    ),
    "where modules": (lambda: lb.convert(model(), where=[nn.ReLU()]), r"where must be a glob .*, got ReLU\(\)"),
    "where a predicate of modules": (
        lambda: lb.convert(model(), where=lambda module: True),
        "where is called with a path and a module, which <function .* does not take .*; give where=lambda path, module",
    ),
    "where a predicate without an answer": (
        lambda: lb.convert(model(), where=lambda path, module: torch.ones(2)),
        r"where must return True or False, got tensor\(\[1., 1.\]\) for ''; give where=lambda path, module: isinst",
    ),
    "a function": (
        lambda: lb.convert(F.relu),
        "convert takes a module, got <function relu.*; for a function use with_r",
    ),
    "a class": (lambda: lb.convert(nn.ReLU), r"got the class ReLU; make one: ReLU\(\.\.\.\)"),
    "nothing": (lambda: lb.convert(None), "convert takes a module, got None; give the model, an nn.Module"),
    "a long value": (lambda: lb.convert(model().state_dict()), "got a value of type OrderedDict; give the model"),
    "nothing to collapse": (lambda: lb.collapse(None), "collapse takes a module, got None; give the model, an nn.Mod"),
    "a function to collapse": (
        lambda: lb.collapse(F.relu),
        "collapse takes a module, got <function relu.*use with_rule",
    ),
    "a class to collapse": (lambda: lb.collapse(nn.ReLU), r"got the class ReLU; make one: ReLU\(\.\.\.\)"),
    "a class for a function": (
        lambda: lb.with_rule(nn.ReLU),
        "takes a function such as torch.relu, got the class ReLU",
    ),
    "a rule for its name": (lambda: lb.rule_from_name(lb.Linear()), r"reads a text such as 'linear', got Linear\(\)"),
    "a target for a loss": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), torch.ones(2, 3), torch.zeros(2)),
        "loss_fn must be a function of the model's output, got a Tensor; with a target y, give loss_fn=lambda",
    ),
    "a criterion for a loss": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), torch.ones(2, 3), nn.CrossEntropyLoss()),
        r"the model's output alone, which CrossEntropyLoss\(\) does not take .*; with a target y, give loss_fn=",
    ),
    "a loss that is a number": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), torch.ones(2, 3), lambda output: 1.0),
        r"loss_fn must return a scalar tensor, got 1\.0",
    ),
    "a detached loss": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), torch.ones(2, 3), lambda h: h.detach().sum()),
        r"the loss depends on no parameter",
    ),
    "an empty batch": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), torch.ones(0, 3)),
        r"the batch is empty: got an input of shape \(0, 3\)",
    ),
    "an empty batch to collapse": (
        lambda: lb.diagnostics.collapse_error(model(), torch.ones(0, 3)),
        r"the batch is empty: got an input of shape \(0, 3\)",
    ),
    "an empty batch to saturate": (
        lambda: lb.diagnostics.saturation(model(), torch.ones(0, 3)),
        r"the batch is empty: got an input of shape \(0, 3\)",
    ),
    "a list of inputs": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), [torch.ones(2, 3)]),
        r"a tuple of the model's arguments, got .*; for a model that takes it as its only argument, give \(inputs,\)",
    ),
    "the rule first": (
        lambda: lb.diagnostics.gradient_alignment(lb.Linear(), model(), torch.ones(2, 3)),
        r"gradient_alignment takes a module, got Linear\(\)",
    ),
    "softmax": (lambda: lb.with_rule(F.softmax), "an elementwise function, which softmax is not"),
    "a function without a name": (
        lambda: lb.rule_from_name("Surrogate(function=<lambda>)"),
        "functions that are not in the catalogue have no name that can be read",
    ),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_remedy(mistake, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        mistake()


def test_an_input_of_one_dimension_is_one_sample():
    """Linear's gradient of one unit a = w x, h = tanh(a): x g for Backprop's x g tanh'(a)."""
    layer = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Tanh())
    alignment = lb.diagnostics.gradient_alignment(layer, lb.Linear(), torch.tensor([1.0, 2.0]), lambda h: h.sum())
    a = layer[0](torch.tensor([1.0, 2.0]))
    assert alignment.cosine == pytest.approx(1, abs=1e-6)
    assert alignment.norm_ratio == pytest.approx(1 / (1 - a.tanh().item() ** 2), rel=1e-5)


def test_zero_grad_inside_accumulate_cannot_take_back_what_ran():
    fast = lb.collapse(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)), always=True)
    x = torch.randn(4, 3)
    with (
        pytest.raises(lb.LinearBackpropError, match=r"zero_grad\(\) inside accumulate\(\) cannot take back"),
        fast.accumulate(),
    ):
        fast(x).sum().backward()
        fast.zero_grad()
    with fast.accumulate():
        fast.zero_grad()  # there is nothing to take back yet
        fast(x).sum().backward()
    assert fast.get_parameter("2.bias").grad.tolist() == [4, 4]
    fast.zero_grad()
    assert all(parameter.grad is None for parameter in fast.parameters())


PRINTED = [
    *RULES,
    lb.Clipped(low=-float("inf"), high=float("inf")),
    lb.Surrogate(F.silu),
    lb.MeanLinear(-1),
    lb.Blend(lb.Linear(), lb.Blend(lb.Exact(), lb.Clipped(), 0.25), torch.tensor(0.5)),
    lb.LocallyExact(lb.MeanLinear()),
    Scaled(0.75),
]


@pytest.mark.parametrize("rule", PRINTED, ids=repr)
def test_every_rule_is_read_as_it_prints(rule: lb.BackwardRule):
    assert lb.rule_from_name(repr(rule)) == rule


def test_a_rule_defined_inside_something_is_read_as_it_prints():
    @dataclass(frozen=True)
    class Inner(lb.BackwardRule):
        factor: float = 0.5

        def cotangent(self, g: Tensor, a: Tensor, f: lb.Elementwise) -> Tensor:
            return self.factor * g

    assert "<locals>" in repr(Inner())
    assert lb.rule_from_name(repr(Inner(0.25))) == Inner(0.25)
    blend = lb.rule_from_name(repr(lb.Blend(Inner(), lb.Linear(), 0.5)))
    assert blend == lb.Blend(Inner(), lb.Linear(), 0.5)
