"""Methods of every kind by which a converted model's code is entered, and copies of models of every class."""

import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from types import MethodType

import pytest
import torch
from torch import Tensor, nn

import linear_backprop as lb


def straight_through(run: Callable[[Tensor], Tensor]) -> bool:
    """Whether tanh at 3 passes a cotangent unchanged."""
    x = torch.full((4,), 3.0, requires_grad=True)
    run(x).sum().backward()
    return torch.equal(x.grad, torch.ones(4))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Softplus()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.tanh(x)

    def apply(self, x: Tensor) -> Tensor:  # not `nn.Module.apply`
        return torch.tanh(x)

    def _with(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)

    encode = functools.partialmethod(_with, torch.tanh)

    @functools.singledispatchmethod
    def decode(self, x: object) -> Tensor:
        raise TypeError

    @decode.register
    def _(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    @property
    def squashed(self) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.tanh(x)


@pytest.mark.parametrize("name", ["forward", "apply", "encode", "decode"])
def test_methods_of_every_kind_follow_the_rule(name: str):
    net = Net()
    with lb.convert(net):
        assert straight_through(getattr(net, name))
    assert not straight_through(getattr(net, name))


def test_what_overrides_a_method_of_every_module_is_left_to_it():
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    model = Frozen(nn.Tanh())
    with lb.convert(model):
        assert "train" not in vars(model) and not model.train().training


class Dispatched(nn.Module):
    @functools.singledispatchmethod
    def forward(self, x: object) -> Tensor:
        return torch.tanh(x)


class Partial(nn.Module):
    def _with(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(x)

    forward = functools.partialmethod(_with, torch.tanh)


class Cached(nn.Module):
    @functools.lru_cache  # noqa: B019
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)


def test_a_method_behind_a_cache_follows_the_rule():
    with lb.convert(net := Cached()):
        assert straight_through(net.encode)


@pytest.mark.parametrize("make", [Dispatched, Partial])
def test_forward_may_be_a_method_of_such_a_kind(make: type[nn.Module]):
    model = make()
    with lb.convert(model):
        assert straight_through(model)


class Steps(nn.Module):
    def forward(self, x: Tensor) -> Iterator[Tensor]:
        yield torch.tanh(x)
        yield torch.tanh(x)


class Later(nn.Module):
    async def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


def awaited(coroutine) -> Tensor:
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


@pytest.mark.parametrize("beside", [[], [nn.ReLU()]], ids=["alone", "beside another activation"])
@pytest.mark.parametrize("make, result", [(Steps, lambda y: list(y)[1]), (Later, awaited)])
def test_a_forward_that_runs_in_steps_follows_the_rule_and_is_listed(make, result, beside):
    model = make()
    model.others = nn.ModuleList(beside)
    with lb.convert(model) as conversion:
        assert straight_through(lambda x: result(model(x)))
        assert "tanh (called)" in {site.what for site in conversion.changed}
    assert not straight_through(lambda x: result(model(x)))


def test_a_converted_forward_has_its_own_signature():
    net, plain = Net(), Net()
    with lb.convert(net), lb.convert(net, lb.Clipped()):
        assert inspect.signature(net.forward) == inspect.signature(plain.forward)
        assert inspect.signature(net.act.forward) == inspect.signature(plain.act.forward)
        assert net.forward.__name__ == "forward" and net.forward.__code__ is Net.forward.__code__


def test_a_forward_may_be_wrapped_again():
    net = Net()
    lb.convert(net)
    forward = getattr(net.forward, "__func__", net.forward)  # as accelerate wraps it
    wrapped = torch.autocast("cpu", enabled=False)(forward)
    net.forward = MethodType(wrapped, net) if hasattr(net.forward, "__func__") else wrapped
    assert straight_through(net)


def test_a_class_with_a_call_of_its_own_is_listed():
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x)

        def __call__(self, x: Tensor) -> Tensor:
            return torch.relu(super().__call__(x))

    with lb.convert(nn.Sequential(Own(), nn.Tanh())) as conversion:
        assert [(site.path, site.what) for site in conversion.unchanged] == [("0", "__call__")]
        assert "put a `backward_rule` block around" in conversion.unchanged[0].reason
    with lb.convert(torch.fx.symbolic_trace(nn.Sequential(nn.Tanh()))) as conversion:
        assert not conversion.unchanged


class Stateful(nn.Module):
    """A class that says itself what its copies are made of."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "copied": True}


def test_copies_of_a_class_with_a_state_of_its_own():
    model = Stateful()
    with lb.convert(model):
        shallow = copy.copy(model)
        with pytest.raises(lb.ConversionError, match="shallow copy"):
            shallow(torch.ones(2))
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for copied in copies:
        assert copied.copied and straight_through(copied)
    assert not straight_through(model)


class WrittenOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) + 0 * x.pow(3) + 0 * torch.nn.functional.softplus(x).clamp_(0) ** 2


def test_a_model_is_pickled_whatever_its_code_calls():
    model = WrittenOut()
    with lb.convert(model):
        before = pickle.loads(pickle.dumps(model))
        model(torch.ones(2))
        after = pickle.loads(pickle.dumps(model))
    assert all(straight_through(copied) for copied in (before, after)) and not straight_through(model)


def test_copies_of_a_traced_model():
    model = torch.fx.symbolic_trace(Net())
    with lb.convert(model):
        copied = copy.deepcopy(model)
        with pytest.raises(lb.ConversionError, match=r"cannot be pickled.*remove\(\) it first"):
            pickle.dumps(model)
    assert straight_through(copied) and not straight_through(model)
    assert isinstance(pickle.loads(pickle.dumps(model)), torch.fx.GraphModule)


class Cell(nn.RNNCellBase):
    def __init__(self) -> None:
        super().__init__(4, 4, bias=False, num_chunks=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Attention(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Gate(nn.GLU):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Gated(nn.ReLU):
    def gate(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@pytest.mark.parametrize(
    ("make", "way"), [(Cell, "forward"), (Attention, "forward"), (Gate, "forward"), (Gated, "gate"), (Gated, "forward")]
)
def test_a_subclass_of_pytorch_s_with_code_of_its_own_is_its_author_s(make: type[nn.Module], way: str):
    model = nn.Sequential(make(), nn.Sigmoid())
    with lb.convert(model) as conversion:
        assert straight_through(getattr(model[0], way))
        assert not conversion.unchanged


class Recurrent(nn.LSTM):
    def states(self, x: Tensor) -> Tensor:
        return self(x)[0]


class Called(nn.Module):
    """A class that `__call__` alone runs."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class CalledActivation(nn.Tanh):
    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Recurrent(4, 4), "lstm (called)"),
        (Called, "__call__"),
        (CalledActivation, "__call__"),
    ],
)
def test_what_it_cannot_follow_is_listed(make: Callable[[], nn.Module], what: str):
    model = nn.Sequential(nn.Sigmoid(), make())
    with lb.convert(model) as conversion:
        model(torch.zeros(2, 4))
        assert [(site.path, site.what) for site in conversion.unchanged] == [("1", what)]
        assert [site.path for site in conversion.changed] == ["0"]
