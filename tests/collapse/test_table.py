"""The table of a collapsed model says what emits, what else there is, what it costs and which path it takes."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import linear_backprop as lb


def called(model: nn.Module, *shape: int, **options) -> lb.Collapsed:
    fast = lb.collapse(model, **options)
    fast(torch.randn(shape))
    return fast


def test_before_the_first_call_it_says_that_there_is_none_yet():
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    fast = lb.collapse(model)
    assert str(fast) == ("collapsed under Linear(): the model is captured at the first call; print it again after that")
    assert repr(fast).startswith("Collapsed(\n  (0): Linear(in_features=3, out_features=2, bias=True)")


def test_every_line():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.above = nn.Linear(3, 16), nn.Linear(16, 2)
            self.act = nn.Tanh()

        def forward(self, x):
            return self.above(F.gelu(self.act(self.act(self.below(x)))))

    fast = called(Net(), 400, 3, always=True)
    lines = str(fast).splitlines()
    # F = 2 (3 x 16 + 16 x 2); the input and what three activations put out are aggregated: 3 + 3 x 16.
    assert lines[:-1] == [
        "path     activation or layer  backward pass",
        "act      Tanh, 2 times        Linear()",
        "(model)  gelu (called)        Linear()",
        "emit: 3 non-linearities; proved affine: 2 operations",
        "costs of a sample: 160 floating-point operations forward, 51 numbers aggregated; C = 2",
    ]


def test_the_path_s_threshold_is_that_of_collapses():
    fast = called(
        nn.Sequential(nn.Linear(64, 512), nn.Tanh(), nn.Linear(512, 512), nn.Tanh(), nn.Linear(512, 4)), 999, 64
    )
    found = re.fullmatch(
        r"path: collapsed from (\d+) samples on; the ordinary backward pass, the cheaper one, with fewer",
        str(fast).splitlines()[-1],
    )
    assert found and fast.collapses(int(found[1])) and not fast.collapses(int(found[1]) - 1)


@pytest.mark.parametrize(
    ("widths", "options", "path"),
    [
        ((3, 4, 50), {"always": True}, "collapsed, whatever the batch (always=True)"),
        (
            (64, 64, 2),
            {"rule": lb.LocallyExact(), "always": True},
            "the C unit vectors go down the chain, whatever the batch (always=True)",
        ),
    ],
)
def test_a_path_that_was_asked_for(widths, options, path):
    below, between, above = widths
    fast = called(nn.Sequential(nn.Linear(below, between), nn.Tanh(), nn.Linear(between, above)), 9, below, **options)
    assert str(fast).splitlines()[-1] == f"path: {path}"


@pytest.mark.filterwarnings("ignore:9 samples are too few")
def test_where_collapsing_never_pays():
    fast = called(nn.Sequential(nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 50)), 9, 30)
    assert str(fast).splitlines()[-1] == "path: the ordinary backward pass, the cheaper one whatever the batch"


def test_rules_of_layers_and_what_is_computed_once():
    model = nn.Sequential(weight_norm(nn.Linear(8, 64)), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 2))
    lines = str(called(model, 99, 8, layers=lb.LINEAR_LAYERS, always=True)).splitlines()
    assert "1     BatchNorm1d          ConstantStatistics(), which computes its own values: nothing to emit" in lines
    assert "3     Dropout              StraightThroughDropout()" in lines
    assert "emit: 2 non-linearities; proved affine: 2 operations" in lines
    assert any(line.startswith("computed once, since no sample enters: 2 operations (") for line in lines)


def test_what_lies_below_is_left_and_named():
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(36, 64), nn.Tanh(), nn.Linear(64, 2)),
    )
    lines = str(called(model, 99, 1, 8, 8, where=lb.after("2"), always=True)).splitlines()
    assert lines[1:3] == [
        "1     ReLU                 left: below the collapsed part",
        "5     Tanh                 Linear()",
    ]
    assert (
        "below the collapsed part, with their true derivatives: 3 operations "
        "(Conv2d at '0', ReLU at '1', MaxPool2d at '2')"
    ) in lines
