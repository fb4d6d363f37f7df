"""The numbers that rules are made with: what is refused, and as what they are kept."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import linear_backprop as lb

NUMBERS = {
    "Clipped's low": lambda number: lb.Clipped(low=number, high=2.0),
    "Clipped's high": lambda number: lb.Clipped(high=number),
    "Rescale's epsilon": lambda number: lb.Rescale(number),
    "RescaledMaximum's epsilon": lambda number: lb.RescaledMaximum(number),
    "SoftenedMaximum's temperature": lambda number: lb.SoftenedMaximum(number),
    "Blend's weight": lambda number: lb.Blend(lb.Linear(), lb.Exact(), number),
}
NO_NUMBERS = ["a", None, (1, 2), True, 1j, np.bool_(True), np.ones(2), Decimal(1), 10**400, torch.nn.ReLU]
TENSORS = [torch.tensor(0.5), torch.ones(2)]


@pytest.mark.parametrize(("what", "make"), NUMBERS.items(), ids=NUMBERS)
def test_what_is_no_number_is_refused(what: str, make):
    for given in NO_NUMBERS + (TENSORS if what != "Blend's weight" else []):
        with pytest.raises(lb.LinearBackpropError, match=f"{what} must be a number, got .*; give one such as 0.5"):
            make(given)


@pytest.mark.parametrize("units", [*NO_NUMBERS[:-2], 1.0, 1.5, Fraction(1), torch.tensor(1)], ids=repr)
def test_units_are_a_whole_number(units):
    with pytest.raises(lb.LinearBackpropError, match=r"MeanLinear's units must be a whole number, got .*; give one"):
        lb.MeanLinear(units)


@pytest.mark.parametrize(
    ("given", "plain"),
    [(1, 1.0), (np.int64(1), 1.0), (np.float32(0.5), 0.5), (np.float64(0.5), 0.5), (Fraction(1, 2), 0.5)],
)
def test_other_kinds_of_numbers_are_kept_as_plain_ones(given, plain: float):
    for make in NUMBERS.values():
        kept, expected = make(given), make(plain)
        assert (kept, hash(kept), repr(kept)) == (expected, hash(expected), repr(expected))


def test_units_of_another_kind_are_kept_as_a_plain_int():
    assert repr(lb.MeanLinear(np.int64(-1))) == "MeanLinear(units=-1)"
    assert repr(lb.calls("1", np.int64(0))) == "calls('1', 0)"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor(5.0), r"must lie in \[0, 1\], got 5.0"),
        (torch.tensor(torch.nan), r"must lie in \[0, 1\], got nan"),
        (torch.tensor(0.5 + 0j), "got a tensor of torch.complex64"),
        (torch.tensor(True), "got a tensor of torch.bool"),
        (torch.ones(1), r"shape \(1,\); give torch.tensor\(0.5\)"),
    ],
)
def test_a_tensor_that_is_no_weight_is_refused(weight: torch.Tensor, message: str):
    with pytest.raises(lb.LinearBackpropError, match=f"Blend's weight .*{message}"):
        lb.Blend(lb.Linear(), lb.Exact(), weight)


def test_a_weight_without_a_value_is_taken():
    rule = lb.Blend(lb.Linear(), lb.Exact(), torch.empty((), device="meta"))
    assert rule.weight.is_meta


def test_a_rule_for_whole_models_cannot_be_blended():
    with pytest.raises(lb.LinearBackpropError, match=r"Blend cannot follow LocallyExact.*use lb.convert"):
        lb.Blend(lb.Linear(), lb.LocallyExact(), 0.5)


def test_rules_are_made_in_compiled_code():
    @torch.compile(backend="eager", fullgraph=True)
    def run(x, low, weight):
        with lb.backward_rule(lb.Blend(lb.Linear(), lb.Clipped(low, 1), weight)):
            return x.tanh()

    for low, weight in ((-1, 0.5), (-0.5, 0.25), (-2, torch.tensor(0.5))):
        x = torch.tensor([-1.5, 0.0], dtype=torch.float64, requires_grad=True)
        run(x, low, weight).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == [1.0 if low == -2 else 1 - float(weight), 1.0]
