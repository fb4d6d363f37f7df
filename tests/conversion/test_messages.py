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
    "a function": (lambda: lb.convert(F.relu), "convert takes a module, got <function relu.*; use with_rule"),
    "a class": (lambda: lb.convert(nn.ReLU), r"got the class ReLU; make one: ReLU\(\)"),
    "nothing": (lambda: lb.convert(None), "convert takes a module, got None"),
    "a target for a loss": (
        lambda: lb.diagnostics.gradient_alignment(model(), lb.Linear(), torch.ones(2, 3), torch.zeros(2)),
        "loss_fn must be a function of the model's output, got a Tensor; with a target y, give loss_fn=lambda",
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
