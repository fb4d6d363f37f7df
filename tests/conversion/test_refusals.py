"""What cannot be right is refused: own rules that return something else, functions that are no activations."""

from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from forms import OUT_OF_PLACE, RULES, Case
from torch import Tensor, nn
from torch.nn import functional as F

import linear_backprop as lb
from linear_backprop._catalogue.not_elementwise import FUNCTIONS

by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
NOT_EXACT = pytest.mark.parametrize("rule", RULES[1:], ids=lambda rule: type(rule).__name__)


@dataclass(frozen=True)
class Returns(lb.BackwardRule):
    """A rule that returns whatever it is told to."""

    made: object = field(compare=False)
    keeps: bool = True

    def cotangent(self, g: Tensor, a: Tensor, f) -> Tensor:
        return self.made(g)

    @property
    def uses_pre_activation(self) -> bool:
        return self.keeps


@dataclass(frozen=True)
class WritesA(lb.BackwardRule):
    """A rule that writes into the pre-activation."""

    def cotangent(self, g: Tensor, a: Tensor, f) -> Tensor:
        return g * a.clamp_(-1, 1)


class Writes(lb.LayerRule):
    """A layer's rule that writes into what one of its methods is given."""

    arguments = {torch.cumsum: {"input": None, "dim": None}}  # noqa: RUF012

    def __init__(self, method: str) -> None:
        self.method = method

    def linear_map(self, call, constants):
        return call.input.detach().mul_(2) + call.input

    def transpose(self, call):
        return (lambda g, like: g.mul_(2)) if self.method == "transpose" else None


@pytest.mark.parametrize("written", ["g", "a", "g alone", "linear_map", "transpose"])
def test_a_rule_that_writes_into_what_it_is_given_is_refused(written: str):
    rules = {
        "g": Returns(lambda g: g.mul_(2)),
        "a": WritesA(),
        "g alone": Returns(lambda g: g.mul_(2), keeps=False),
    }
    x = torch.ones(4, requires_grad=True)
    layers = [] if written in rules else [Writes(written)]
    with (
        pytest.raises(lb.LinearBackpropError, match=r"writes into a tensor that `.*` was given.*make a new one"),
        lb.backward_rule(rules.get(written, lb.Linear()), layers=layers),
    ):
        torch.autograd.grad(torch.cumsum(torch.tanh(2 * x), 0), x, torch.ones(4))


WRONG = {
    "nothing": (lambda g: None, "returned None from `cotangent`"),
    "a number": (lambda g: 2.0, "returned 2.0 from `cotangent`"),
    "a tuple": (lambda g: (g,), "must return the cotangent of a: a tensor of g's shape"),
    "a sum": (lambda g: g.sum(), r"a cotangent of shape \(\); that of a has g's shape, \(4,\)"),
    "one that broadcasts": (lambda g: g[:1], r"of shape \(1,\)"),
    "one dimension more": (lambda g: g[None], r"of shape \(1, 4\)"),
    "a mask": (lambda g: g > 0, "of dtype torch.bool; that of a has torch.float64"),
    "half the precision": (lambda g: g.float(), "of dtype torch.float32; that of a has torch.float64"),
    "integers": (lambda g: g.long(), "of dtype torch.int64"),
}


@pytest.mark.parametrize(("made", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("form", ["function", "in place", "torch.func", "forward mode"])
def test_a_cotangent_that_is_none_is_refused(made, message: str, keeps: bool, form: str):
    rule, x = Returns(made, keeps), torch.randn(4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(lb.LinearBackpropError, match=message):
        if form == "function":
            lb.with_rule(torch.tanh, rule)(x).sum().backward()
        elif form == "in place":
            lb.with_rule(torch.tanh_, rule)(x * 1).sum().backward()
        elif form == "torch.func":
            torch.func.grad(lambda z: lb.with_rule(torch.tanh, rule)(z).sum())(x.detach())
        else:
            torch.func.jvp(lb.with_rule(torch.tanh, rule), (x.detach(),), (x.detach(),))


NO_ACTIVATIONS = {
    "a comparison": (lambda z: z > 0, "returned torch.bool: have it return `.to"),
    "indices": (lambda z: z.argsort(), "returned torch.int64"),
    "a tuple": (lambda z: (z, z), "returned a tuple: wrap the part"),
    "a list": (lambda z: [z], "returned a list"),
    "nothing": (lambda z: None, "returned a NoneType"),
    "a number": (lambda z: 3.0, "returned a float"),
    "a sum": (lambda z: z.sum(), "keeps its input's shape"),
}


@NOT_EXACT
@pytest.mark.parametrize(("function", "message"), NO_ACTIVATIONS.values(), ids=NO_ACTIVATIONS)
def test_a_function_that_makes_no_activation_is_refused_at_the_call(rule: lb.BackwardRule, function, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        lb.with_rule(function, rule)(torch.randn(3, requires_grad=True))


W = torch.tensor(2.0, requires_grad=True)
HOLDING = {
    "a lambda": lambda z: torch.sigmoid(W * z),
    "a bound method": nn.PReLU(dtype=torch.float64).forward,
    "a partial of one": partial(lambda z, k: k * W * z, k=2.0),
    "in a list": partial(lambda z, ws: ws[0] * z, ws=[W]),
}


@NOT_EXACT
@pytest.mark.parametrize("function", HOLDING.values(), ids=HOLDING)
def test_a_function_that_holds_what_takes_a_gradient_is_refused_at_the_call(rule: lb.BackwardRule, function):
    x = torch.randn(4, dtype=torch.float64)
    for given in (x, x.clone().requires_grad_()):
        with pytest.raises(lb.LinearBackpropError, match=r"a tensor that it holds.*pass the tensor as an argument"):
            lb.with_rule(function, rule)(given)
    with torch.no_grad():
        assert torch.equal(lb.with_rule(function, rule)(x), function(x))


@NOT_EXACT
def test_a_function_that_holds_what_takes_no_gradient_is_not_refused(rule: lb.BackwardRule):
    held, x, w = torch.tensor(2.0), torch.randn(4, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    own = lb.with_rule(lambda z, w: torch.tanh(held * z * w * W.detach()), rule)
    assert torch.autograd.grad(own(x, w).sum(), w)[0].isfinite()


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_known_not_to_be_elementwise_are_refused(function):
    for given in (function, partial(function)):
        with pytest.raises(lb.LinearBackpropError, match=r"an elementwise function, which .* is not: "):
            lb.with_rule(given)


@pytest.mark.parametrize("case", OUT_OF_PLACE, ids=lambda case: case.label)
@by_rule
def test_under_autocast_gradients_are_those_without_it(rule: lb.BackwardRule, case: Case):
    """bfloat16 keeps 8 bits: the cotangents agree with float32's to 2 percent of the largest."""
    found = []
    x = torch.arange(-20, 20).view(8, 5) / 8 + 1 / 16  # in bfloat16, too, and on no kink
    for enabled in (False, True):
        weight, slope = torch.eye(5, requires_grad=True), torch.full((1,), 0.25, requires_grad=True)
        arguments = [slope if isinstance(a, Tensor) else a for a in case.arguments]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            h = lb.with_rule(case.function, rule)(F.linear(x, weight), *arguments, **dict(case.keywords))
        h.float().mul(torch.linspace(0.5, 1, 40).view(8, 5)).sum().backward()
        found.append([weight.grad, *([] if slope.grad is None else [slope.grad])])
    if "training" in case.label:
        return  # other numbers are drawn in another dtype
    for exact, autocast in zip(*found, strict=True):
        assert (autocast - exact).abs().max() <= 0.02 * exact.abs().max()


@by_rule
def test_prelu_modules_under_autocast_get_their_gradients(rule: lb.BackwardRule):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 7), nn.PReLU(), nn.Linear(7, 2)), torch.randn(8, 5)
    with lb.convert(model, rule):
        model(x).sum().backward()
        expected = model[1].weight.grad.clone()
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = model(x)
        y.float().sum().backward()
    torch.testing.assert_close(model[1].weight.grad, expected, rtol=0.05, atol=0.05)


def test_a_learned_clamp_under_autocast_gets_its_gradient():
    bound, x = torch.tensor(0.1, requires_grad=True), torch.randn(8, 5)
    with torch.autocast("cpu", torch.bfloat16), lb.backward_rule():
        h = F.linear(x, torch.eye(5)).clamp(min=bound)
    h.float().sum().backward()
    assert bound.grad == (x < 0.1).sum()
