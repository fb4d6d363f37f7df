"""The table of what cannot follow an elementwise rule: it is one, and its remedies work."""

import pytest
import torch
from torch import nn

import linear_backprop as lb
from linear_backprop._catalogue.activations import functions_named
from linear_backprop._catalogue.not_elementwise import FUNCTIONS, TABLE, NotElementwise

by_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: (row.functions or row.modules)[0])

# Of every module that takes one floating tensor, one that is refused by name, and its input's shape.
MODULES = [
    *((module, (6, 4)) for module in (nn.Softmax(1), nn.Softmin(1), nn.LogSoftmax(1), nn.GLU(1), nn.LayerNorm(4))),
    *((module, (6, 4)) for module in (nn.RMSNorm(4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.AlphaDropout(0.5))),
    *((module, (6, 4, 8)) for module in (nn.MaxPool1d(2), nn.LPPool1d(2, 2), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4))),
    *((module, (6, 4, 8, 8)) for module in (nn.FractionalMaxPool2d(2, 4), nn.LPPool2d(2, 2), nn.Softmax2d())),
    *((module, (6, 4, 8, 8)) for module in (nn.LocalResponseNorm(2),)),
    *((module, (6, 4, 8, 8)) for module in (nn.InstanceNorm2d(4, track_running_stats=True),)),
    *((module, (6, 4, 8, 8)) for module in (nn.BatchNorm2d(4, track_running_stats=False),)),
    *((module, (6, 4, 4, 4, 4)) for module in (nn.AdaptiveMaxPool3d(2), nn.LPPool3d(2, 2))),
    (nn.FractionalMaxPool3d(2, 2), (6, 4, 4, 4, 4)),
]
by_module = pytest.mark.parametrize(("module", "shape"), MODULES, ids=lambda value: type(value).__name__)


def refusal(module: nn.Module, shape: tuple[int, ...], layers: tuple[lb.LayerRule, ...] = ()) -> str:
    x = torch.randn(shape, requires_grad=True)
    try:
        lb.collapse(nn.Sequential(nn.Identity(), module), layers=layers, always=True)(x)
    except lb.CollapseError as error:
        return str(error)
    return ""


@by_row
def test_every_row_is_of_something_there_is(row: NotElementwise):
    assert row.modules or row in FUNCTIONS.values()
    for name in row.functions:
        assert {FUNCTIONS[function] for function in functions_named(name)} == {row}


def test_no_function_or_module_has_two_rows():
    names = [name for row in TABLE for name in row.functions]
    modules = [module for row in TABLE for module in row.modules]
    assert len(set(names)) == len(names) and len(set(modules)) == len(modules)


@by_module
def test_collapse_refuses_it_and_says_what_to_do(module: nn.Module, shape: tuple[int, ...]):
    message = refusal(module, shape)
    assert message.startswith(f"{type(module).__name__} at '1' cannot be collapsed: ")
    assert len(message.split(". ")) >= 2


@by_module
def test_a_linear_rule_is_advised_exactly_where_there_is_one(module: nn.Module, shape: tuple[int, ...]):
    advised = "layers=LINEAR_LAYERS" in refusal(module, shape)
    assert advised == (refusal(module, shape, lb.LINEAR_LAYERS) == "")


@pytest.mark.parametrize(
    "module",
    [nn.BatchNorm2d(4), nn.InstanceNorm2d(4, track_running_stats=True), nn.Dropout(), nn.AlphaDropout()],
    ids=lambda module: type(module).__name__,
)
def test_eval_mode_helps_where_it_is_advised(module: nn.Module):
    assert "eval mode" in refusal(module.train(), (6, 4, 8, 8))
    assert refusal(module.eval(), (6, 4, 8, 8)) == ""


def test_a_head_that_normalizes_is_to_move_into_the_loss():
    for head in (nn.Softmax(1), nn.LogSoftmax(1)):
        assert "Move it into the loss" in refusal(head, (6, 4))
