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
    with pytest.raises(AttributeError, match=r"encode\(\) is a method of the model .* call \.uncollapsed\.encode\(\)"):
        fast.encode(torch.randn(2, 4))
    assert not hasattr(fast, "encode") and fast.uncollapsed.encode(torch.randn(2, 4)).shape == (2, 8)


def test_what_the_model_lacks_is_missing():
    with pytest.raises(AttributeError, match="'Classifier' object has no attribute 'n_clases'"):
        lb.collapse(Classifier()).n_clases  # noqa: B018


def test_copies_answer_for_their_own_model():
    fast = lb.collapse(Classifier())
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        copied.n_classes = 7
        assert (copied.uncollapsed.n_classes, fast.n_classes) == (7, 3)


def test_a_shallow_copy_runs_for_itself():
    fast = lb.collapse(Classifier(), always=True)
    copied = copy.copy(fast)
    with copied.accumulate():
        copied(torch.randn(64, 4)).sum().backward()
        assert fast.head.weight.grad is None
    assert fast.head.weight.grad is not None and "proved affine" in str(copied)
    assert str(fast).startswith("collapsed under")


class Named(nn.Module):
    """Has names of its own for what `collapse` has a name for, too."""

    def __init__(self):
        super().__init__()
        self.where, self.check, self.always, self.compiled, self.process_group = 1, 2, 3, 4, 5
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8)])
        self.rule, self.model = nn.Tanh(), nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = self.rule(layer(x))
        return self.model(x) * self.compiled


def test_names_are_the_models():
    model = Named()
    fast = lb.collapse(model, always=True)
    assert (fast.where, fast.check, fast.always, fast.compiled, fast.process_group) == (1, 2, 3, 4, 5)
    assert fast.layers is model.layers and fast.rule is model.rule and fast.model is model.model
    assert fast.get_submodule("layers.0") is model.layers[0] and fast.get_submodule("model") is model.model
    others = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    torch.func.functional_call(fast, others, torch.randn(64, 4)).sum().backward()
    assert all(p.grad is not None for p in others.values()) and all(p.grad is None for p in model.parameters())
    with pytest.raises(AttributeError, match="collapse the other one"):
        fast.uncollapsed = nn.Linear(8, 3)


class Checkpointed(Classifier):
    """Keeps everything in its state that `nn.Module` lets a model keep in it, and does all with it in its own way."""

    _version = 3

    def __init__(self):
        super().__init__()
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.table, self.zeroed, self.loaded = torch.ones(2), False, False
        self.register_state_dict_post_hook(
            lambda module, state, prefix, _: state.update({f"{prefix}note": torch.ones(1)})
        )
        self.register_load_state_dict_pre_hook(lambda module, state, prefix, *_: state.pop(f"{prefix}note"))
        self.register_load_state_dict_post_hook(lambda module, _: setattr(module, "loaded", True))

    def get_extra_state(self):
        return {"n_classes": self.n_classes}

    def set_extra_state(self, state):
        self.n_classes = state["n_classes"]

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        assert metadata["version"] == 3
        super()._load_from_state_dict(state, prefix, metadata, *args)

    def _apply(self, fn, recurse=True):
        self.table = fn(self.table)
        return super()._apply(fn, recurse)

    def train(self, mode=True):
        super().train(mode)
        self.body.eval()
        return self

    def zero_grad(self, set_to_none=True):
        self.zeroed = True
        super().zero_grad(set_to_none)

    def named_parameters(self, *args, **kwargs):
        return ((name, p) for name, p in super().named_parameters(*args, **kwargs) if not name.startswith("body"))


@pytest.mark.parametrize("inside", [lambda module: module, nn.Sequential], ids=["alone", "in another"])
def test_a_state_is_interchangeable_with_the_models(inside):
    model, fast = inside(Checkpointed()), inside(lb.collapse(Checkpointed()))
    theirs, ours = model.state_dict(), fast.state_dict()
    assert list(ours) == list(theirs) and ours._metadata == theirs._metadata
    own = next(module.uncollapsed for module in fast.modules() if isinstance(module, lb.Collapsed))
    own.n_classes = 5
    fast.load_state_dict(theirs)
    assert own.n_classes == 3 and own.loaded
    torch.testing.assert_close(list(fast.parameters()), list(model.parameters()), rtol=0, atol=0)
    model.load_state_dict(ours)


def test_what_a_model_does_in_its_own_way_is_done_so():
    fast = lb.collapse(Checkpointed())
    assert fast.double() is fast and fast.table.dtype == torch.float64
    assert nn.Sequential(fast).float() and fast.table.dtype == torch.float32
    assert fast.train() is fast and fast.training and not fast.body.training
    assert [name for name, _ in fast.named_parameters()] == ["head.weight", "head.bias"]
    assert len(list(fast.parameters())) == 2
    fast.zero_grad()
    assert fast.zeroed


def test_modules_that_come_and_go_are_the_models():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    fast = lb.collapse(model, always=True)
    del model[-1]  # puts the others into another dictionary
    model.append(nn.Linear(8, 5))
    assert list(map(id, fast.parameters())) == list(map(id, nn.Sequential(fast).parameters()))
    assert [p.shape for p in fast.parameters()][-1] == (5,) and fast.state_dict()["2.weight"].shape == (5, 8)
    fast.add_module("3", nn.Linear(5, 2))
    assert len(model) == 4 and fast(torch.randn(64, 4)).shape == (64, 2)
    fast.register_buffer("scratch", torch.ones(2), persistent=False)
    assert "scratch" not in model.state_dict()


@pytest.mark.parametrize("options", [{}, {"rule": lb.LocallyExact()}, {"compile": True}])
def test_parameters_may_be_swapped_in_conversions(options: dict):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    fast, x = lb.collapse(net, always=True, **options), torch.randn(20, 4)
    fast(x).sum().backward()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        fast.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    fast(x.double()).sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float64 for p in net.parameters())
