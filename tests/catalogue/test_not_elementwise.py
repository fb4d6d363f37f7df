"""The table of what cannot follow an elementwise rule: it is one, and its remedies work."""

import pytest
from torch import nn

import linear_backprop as lb
from linear_backprop._catalogue.activations import functions_named
from linear_backprop._catalogue.not_elementwise import FUNCTIONS, TABLE, NotElementwise

by_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: (row.functions or row.modules)[0])

# Of every module, one that is refused by name.
MODULES = [
    *(nn.Softmax(1), nn.Softmax2d(), nn.Softmin(1), nn.LogSoftmax(1), nn.GLU(1), nn.Bilinear(2, 2, 2)),
    *(nn.MultiheadAttention(2, 1), nn.LSTM(2, 2), nn.GRUCell(2, 2), nn.Embedding(2, 2)),
    *(nn.MaxPool1d(2), nn.AdaptiveMaxPool3d(2), nn.FractionalMaxPool2d(2, 2), nn.FractionalMaxPool3d(2, 2)),
    *(nn.LPPool1d(2, 2), nn.LPPool2d(2, 2), nn.LPPool3d(2, 2), nn.MaxUnpool1d(2), nn.MaxUnpool3d(2)),
    *(nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2), nn.LocalResponseNorm(2), nn.CrossMapLRN2d(2)),
    *(nn.InstanceNorm1d(2), nn.InstanceNorm2d(2, track_running_stats=True), nn.SyncBatchNorm(2)),
    *(nn.BatchNorm1d(2), nn.BatchNorm2d(2, track_running_stats=False), nn.Dropout(0.5), nn.AlphaDropout(0.5)),
]
by_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)


def refusal(module: nn.Module, layers: tuple[lb.LayerRule, ...] = ()) -> str:
    try:
        lb.collapse(nn.Sequential(nn.Linear(2, 2), module), layers=layers)
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
def test_collapse_refuses_it_and_says_what_to_do(module: nn.Module):
    message = refusal(module)
    assert message.startswith(f"{type(module).__name__} at '1' cannot be collapsed: ")
    assert len(message.split(". ")) >= 2


@by_module
def test_a_linear_rule_is_advised_exactly_where_there_is_one(module: nn.Module):
    advised = "layers=LINEAR_LAYERS" in refusal(module)
    assert advised == (refusal(module, lb.LINEAR_LAYERS) == "")


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm2d(2),
        nn.SyncBatchNorm(2),
        nn.InstanceNorm2d(2, track_running_stats=True),
        nn.Dropout(),
        nn.AlphaDropout(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_eval_mode_helps_where_it_is_advised(module: nn.Module):
    assert "eval mode" in refusal(module.train())
    assert refusal(module.eval()) == ""


def test_a_head_that_normalizes_is_to_move_into_the_loss():
    for head in (nn.Softmax(1), nn.LogSoftmax(1)):
        assert "Move it into the loss" in refusal(head)
