"""A rule follows the code: whichever way it is entered, and when activation checkpointing runs it again."""

import copy
import inspect
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from forms import RULES
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import linear_backprop as lb
from linear_backprop._conversion.patch import plain_copy

by_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
both_forms = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])


class Net(nn.Module):
    """Code that can be entered by many ways."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.act, self.above = nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)
        self.deep = nn.Sequential(nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 4))
        self.double()

    def encode(self, x: Tensor) -> Tensor:
        return self.deep(torch.tanh(self.below(x)) + self.act(self.below(x)))

    def decode(self, h: Tensor) -> Tensor:
        return self.above(h.sigmoid())

    def steps(self, x: Tensor) -> Iterator[Tensor]:
        yield self.encode(x)
        yield self.decode(self.encode(x))

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        return torch.tanh(x)

    @classmethod
    def squash_too(cls, x: Tensor) -> Tensor:
        return cls.squash(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


X = torch.linspace(-2, 2, 12, dtype=torch.float64).view(4, 3)

ENTRIES: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "forward": lambda net, x: net(x),
    "encode": lambda net, x: net.encode(x),
    "by parts": lambda net, x: net.decode(net.encode(x)),
    "a generator": lambda net, x: torch.cat([y.sum()[None] for y in net.steps(x)]),
    "a static method": lambda net, x: net.squash(net.below(x)),
    "a class method": lambda net, x: net.squash_too(net.below(x)),
}


def gradients(net: nn.Module, run: Callable[[], Tensor], x: Tensor) -> list[Tensor]:
    for tensor in (*net.parameters(), x):
        tensor.grad = None
    run().square().sum().backward()
    return [torch.zeros_like(t) if t.grad is None else t.grad.clone() for t in (*net.parameters(), x)]


def under_block(rule: lb.BackwardRule, entry: Callable[[Net, Tensor], Tensor]) -> list[Tensor]:
    """The gradients of an unconverted model, everything in one block."""
    net, x = Net(), X.clone().requires_grad_()

    def run() -> Tensor:
        with lb.backward_rule(rule):
            return entry(net, x)

    return gradients(net, run, x)


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@by_rule
@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_every_way_into_a_converted_model_follows_the_rule(rule: lb.BackwardRule, entry):
    net, x = Net(), X.clone().requires_grad_()
    before = [dict(vars(module)) for module in net.modules()]
    with lb.convert(net, rule):
        assert_same(gradients(net, lambda: entry(net, x), x), under_block(rule, entry))
    assert_same(gradients(net, lambda: entry(net, x), x), under_block(lb.Exact(), entry))
    assert [dict(vars(module)) for module in net.modules()] == before


def test_a_method_keeps_its_signature_and_what_the_user_set_in_its_place():
    net = Net()
    own = lambda x: torch.relu(net.below(x))  # noqa: E731
    net.encode = own
    with lb.convert(net):
        assert inspect.signature(net.decode) == inspect.signature(Net().decode)
        x = -X.abs().requires_grad_()
        assert torch.equal(net.encode(x), own(x))
        (g,) = torch.autograd.grad(net.encode(x)[0, 0], x)
        assert torch.equal(g[0], net.below.weight[0])
    assert net.encode is own


def test_a_second_conversion_decides_for_methods_too():
    net, x = Net(), X.clone().requires_grad_()
    with lb.convert(net):
        with lb.convert(net, lb.Clipped()):
            assert_same(gradients(net, lambda: net.encode(x), x), under_block(lb.Clipped(), ENTRIES["encode"]))
        assert_same(gradients(net, lambda: net.encode(x), x), under_block(lb.Linear(), ENTRIES["encode"]))


CHECKPOINTED: dict[str, Callable[[Net, Tensor, bool], Tensor]] = {
    "a module": lambda net, x, r: checkpoint(net, x, use_reentrant=r),
    "a module inside": lambda net, x, r: net.decode(checkpoint(net.deep, net.below(x).tanh(), use_reentrant=r)),
    "an activation": lambda net, x, r: net.above(checkpoint(net.act, net.below(x), use_reentrant=r)),
    "a method": lambda net, x, r: net.decode(checkpoint(net.encode, x, use_reentrant=r)),
    "a bound forward": lambda net, x, r: checkpoint(net.forward, x, use_reentrant=r),
    "a lambda": lambda net, x, r: checkpoint(lambda z: net.above(net.below(z).tanh()), x, use_reentrant=r),
    "one in another": lambda net, x, r: checkpoint(
        lambda z: net.decode(checkpoint(lambda u: net.below(u).tanh(), z, use_reentrant=r)), x, use_reentrant=r
    ),
    "segments": lambda net, x, r: checkpoint_sequential(net.deep, 2, net.below(x).tanh(), use_reentrant=r),
}


class Calls(nn.Module):
    """A model whose forward is a given function of the network below it."""

    def __init__(self, function: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.net = Net()
        self.function = [function]

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](self.net, x)


@by_rule
@both_forms
@pytest.mark.parametrize("checkpointed", CHECKPOINTED.values(), ids=CHECKPOINTED)
@pytest.mark.parametrize("by", ["convert", "block", "convert, run outside"])
def test_what_is_run_again_follows_the_rule(rule: lb.BackwardRule, reentrant: bool, checkpointed, by: str):
    plain = lambda net, x: checkpointed(net, x, reentrant)  # noqa: E731
    model, x = Calls(plain), X.clone().requires_grad_()
    without = {"checkpoint": lambda f, *args, use_reentrant: f(*args)}
    without["checkpoint_sequential"] = lambda f, segments, *args, use_reentrant: f(*args)
    kept = {name: globals()[name] for name in without}
    globals().update(without)
    try:
        expected = under_block(rule, plain)
    finally:
        globals().update(kept)
    if by == "block":

        def run() -> Tensor:
            with lb.backward_rule(rule):
                return model(x)

        got = gradients(model, run, x)
    else:
        with lb.convert(model, rule) as conversion:
            inside = by == "convert"
            got = gradients(model, lambda: model(x) if inside else plain(model.net, x), x)
        # A lambda that is no code of the model's own, run outside of it, follows nothing, checkpointed or not.
        if not inside and checkpointed in (CHECKPOINTED["a lambda"], CHECKPOINTED["one in another"]):
            return
        if not inside and checkpointed in (CHECKPOINTED["a module inside"], CHECKPOINTED["segments"]):
            return  # its tanh is called outside
        assert conversion.changed and all("tanh" not in site.what for site in conversion.unchanged)
    assert_same(got, expected)


@both_forms
def test_what_is_run_again_follows_no_block_around_the_backward_pass(reentrant: bool):
    net, x = Net(), X.clone().requires_grad_()
    expected = under_block(lb.Exact(), ENTRIES["forward"])
    for parameter in net.parameters():
        parameter.grad = None
    loss = checkpoint(net, x, use_reentrant=reentrant).square().sum()
    with lb.backward_rule(lb.PreActivation()):
        loss.backward()
    assert_same([t.grad for t in (*net.parameters(), x)], expected)


def test_a_checkpointed_model_is_listed_as_changed():
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(torch.tanh, x, use_reentrant=True)

    model, x = Functional(), torch.randn(3, requires_grad=True)
    conversion = lb.convert(model)
    model(x).sum().backward()
    assert [site.what for site in conversion.changed] == ["tanh (called)"]
    assert x.grad is not None and x.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("grad", [torch.enable_grad, lambda: torch.set_grad_enabled(True)])
def test_a_forward_that_enables_grad_by_itself_follows_the_rule(grad):
    class ForceField(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

        def forward(self, x: Tensor) -> Tensor:
            with grad():
                x = x.detach().requires_grad_()
                (force,) = torch.autograd.grad(torch.sigmoid(self.energy(x)).sum(), x)
            return force

    model = ForceField()
    expected = model.energy[2].weight @ model.energy[0].weight
    with lb.convert(model), torch.no_grad():
        torch.testing.assert_close(model(X), expected.expand(4, 3))
    with lb.convert(model):
        torch.testing.assert_close(model(X), expected.expand(4, 3))


def test_without_grad_pytorch_s_fast_paths_are_taken():
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.attention(*[self.layer(x)] * 3)[0])

    @contextmanager
    def counted() -> Iterator[list[str]]:
        with torch.profiler.profile() as profile:
            names: list[str] = []
            yield names
        names += [event.name for event in profile.events() if event.name.startswith("aten::_")]

    model, x = Attends().eval(), torch.randn(2, 3, 8)
    with torch.no_grad():
        with counted() as expected:
            y = model(x)
        assert "aten::_transformer_encoder_layer_fwd" in expected
        with lb.convert(model), counted() as got:
            assert torch.equal(model(x), y)
    assert got == expected


@by_rule
def test_a_block_decorates_functions_and_generators(rule: lb.BackwardRule):
    net, x = Net(), X.clone().requires_grad_()

    @lb.backward_rule(rule)
    def run() -> Tensor:
        """Documented."""
        return net(x)

    @lb.backward_rule(rule)
    def generate() -> Iterator[Tensor]:
        yield net(x)

    assert (run.__name__, run.__doc__) == ("run", "Documented.")
    assert_same(gradients(net, run, x), under_block(rule, ENTRIES["forward"]))
    assert_same(gradients(net, lambda: next(generate()), x), under_block(rule, ENTRIES["forward"]))


def test_a_thread_started_in_a_block_is_outside_of_it():
    slopes: list[float] = []

    def run() -> None:
        x = torch.tensor(0.0, requires_grad=True)
        torch.sigmoid(x).backward()
        slopes.append(x.grad.item())

    with lb.backward_rule():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        run()
    assert slopes == [0.25, 1.0]


def saved(model: nn.Module) -> bytes:
    torch.save(model, buffer := io.BytesIO())
    return buffer.getvalue()


@pytest.mark.parametrize("travel", ["pickle", "save", "deepcopy"])
def test_one_block_of_a_converted_model_travels_by_itself(travel: str):
    class Big(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.rest = Net(), nn.Sequential(nn.Linear(300, 300), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x)

    model, x = Big(), X.clone().requires_grad_()
    conversion = lb.convert(model)
    if travel == "deepcopy":
        block = copy.deepcopy(model.block)
    elif travel == "pickle":
        assert len(pickle.dumps(model.block)) < 60_000  # the rest has 720,000 bytes
        block = pickle.loads(pickle.dumps(model.block))
    else:
        assert len(saved(model.block)) < 60_000
        block = torch.load(io.BytesIO(saved(model.block)), weights_only=False)
    conversion.remove()
    assert_same(gradients(block, lambda: block.encode(x), x), under_block(lb.Linear(), ENTRIES["encode"]))


@pytest.mark.parametrize("entry", ["forward", "encode", "by parts", "a generator", "a static method"])
def test_a_shallow_copy_is_refused_and_harms_nobody(entry: str):
    net, x = Net(), X.clone().requires_grad_()
    conversion = lb.convert(net)
    shallow = copy.copy(net)
    with pytest.raises(lb.ConversionError, match="shallow copy"):
        ENTRIES[entry](shallow, x)
    assert_same(gradients(net, lambda: ENTRIES[entry](net, x), x), under_block(lb.Linear(), ENTRIES[entry]))
    conversion.remove()
    twin = copy.copy(net)
    assert_same(gradients(twin, lambda: ENTRIES[entry](twin, x), x), under_block(lb.Exact(), ENTRIES[entry]))


def test_a_conversion_travels_with_its_model():
    model, x = Net(), X.clone().requires_grad_()
    twin, conversion = pickle.loads(pickle.dumps((model, lb.convert(model))))
    conversion.remove()
    assert all("forward" not in vars(module) for module in twin.modules())
    assert_same(gradients(twin, lambda: twin(x), x), under_block(lb.Exact(), ENTRIES["forward"]))


@by_rule
def test_a_replica_runs_itself(rule: lb.BackwardRule):
    """As `nn.DataParallel` makes it: its tensors are its own, and so is its patch."""
    net, x = Net(), X.clone().requires_grad_()
    lb.convert(net, rule)
    replicas = {module: module._replicate_for_data_parallel() for module in net.modules()}
    for module, replica in replicas.items():
        for name, child in module.named_children():
            setattr(replica, name, replicas[child])
        for name, parameter in module.named_parameters(recurse=False):
            setattr(replica, name, parameter * 2)
    twin = Net()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    lb.convert(twin, rule)
    (ours,) = torch.autograd.grad(replicas[net](x).sum(), x)
    (theirs,) = torch.autograd.grad(twin(x).sum(), x)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("container", ["sequential", "module"])
@by_rule
def test_a_module_put_in_another_s_place_follows_the_rule(rule: lb.BackwardRule, container: str):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    model = layers if container == "sequential" else Calls(lambda net, x: layers(x))
    lb.convert(model, rule)
    layers[1] = nn.Tanh()
    x = X.clone().requires_grad_()
    (got,) = torch.autograd.grad(model(x).sum(), x)
    (expected,) = torch.autograd.grad(layers[2](lb.with_rule(torch.tanh, rule)(layers[0](x))).sum(), x)
    assert torch.equal(got, expected)


class Marked(nn.Module):
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    encode.route = "/encode"

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)


def test_an_entry_has_what_its_method_has():
    net, plain = Marked(), Marked()
    lb.convert(net)
    net = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert net.encode.route == plain.encode.route and net.encode.__qualname__ == plain.encode.__qualname__
    assert net.encode.__self__ is net
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        net.encode.missing  # noqa: B018


def test_what_is_set_on_a_method_during_a_conversion_stays_after_it():
    net, x = Marked(), torch.zeros(4)
    conversion = lb.convert(net)
    fetched = net.encode
    net.encode = lambda x: fetched(x) + 1
    assert torch.equal(net(x), torch.ones(4))
    conversion.remove()
    assert torch.equal(net(x), torch.ones(4)) and "forward" not in vars(net)
    with lb.convert(net):
        assert torch.equal(net(x), torch.ones(4))
    assert torch.equal(net(x), torch.ones(4))


@pytest.mark.parametrize("make", [Marked, lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Tanh()))])
@pytest.mark.parametrize("travel", [copy.deepcopy, lambda net: net], ids=["a copy", "the model itself"])
def test_nothing_of_a_conversion_is_left_behind(make: Callable[[], nn.Module], travel):
    net = make()
    before = set(vars(net))
    lb.convert(net)
    assert set(vars(plain_copy(travel(net)))) == before
