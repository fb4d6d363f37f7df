"""A user's own model, and inputs it runs on."""

import sys
from types import ModuleType

import pytest
from torch import nn

from linear_backprop_lab._own_model import OwnModelError, own_model


def test_inputs_by_name_are_refused_for_their_names_would_be_passed(monkeypatch):
    module = ModuleType("made_up_factories")
    module.make = lambda: (nn.Tanh(), {"x": 1})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(OwnModelError, match=r":make gives a model and dict; give its input, a tensor, or a tuple of"):
        own_model("made_up_factories:make", (1, 2))
