"""What a collapsed model answers for the model in it, beside its outputs."""

import copy
import pickle

import pytest
import torch
from torch import nn

import linear_backprop as lb


class Classifier(nn.Module):
    kind = "a classifier"

    def __init__(self):
        super().__init__()
        self.n_classes, self.loss = 3, nn.functional.cross_entropy
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    @property
    def width(self):
        return self.head.in_features

    def encode(self, x):
        return torch.tanh(self.body(x))

    def forward(self, x):
        return self.head(self.encode(x))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: torch.compile(model, backend="eager")])
def test_data_of_the_model_is_read_through(wrap):
    model = Classifier()
    fast = lb.collapse(wrap(model))
    assert (fast.n_classes, fast.kind, fast.width) == (3, "a classifier", 8)
    assert fast.loss is nn.functional.cross_entropy and fast.head is model.head


def test_data_of_the_model_is_written_through():
    model = Classifier()
    fast = lb.collapse(model, always=True)
    fast.n_classes = 5
    fast.note = "of the collapsed model"
    assert model.n_classes == 5 and not hasattr(model, "note") and fast.note == "of the collapsed model"
    fast.head = head = nn.Linear(8, 5)
    assert model.head is head and fast(torch.randn(64, 4)).shape == (64, 5)


def test_a_method_that_would_run_uncollapsed_is_refused_by_name():
    model = Classifier()
    fast = lb.collapse(model)
    with pytest.raises(AttributeError, match=r"encode\(\) is a method of the model .* call \.model\.encode\(\)"):
        fast.encode(torch.randn(2, 4))
    assert not hasattr(fast, "encode") and fast.model.encode(torch.randn(2, 4)).shape == (2, 8)


def test_what_the_model_lacks_is_missing():
    with pytest.raises(AttributeError, match="'Classifier' object has no attribute 'n_clases'"):
        lb.collapse(Classifier()).n_clases  # noqa: B018


def test_copies_answer_for_their_own_model():
    fast = lb.collapse(Classifier())
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        copied.n_classes = 7
        assert (copied.model.n_classes, fast.n_classes) == (7, 3)
