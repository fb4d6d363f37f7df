"""Single runs of a module: counted right wherever it runs, and refused where they cannot be told apart."""

import copy
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import linear_backprop as lb


def linearized(a: Tensor) -> Tensor:
    """ReLU with derivative 1, as Guo et al. write it: x + relu(-x), the latter without a gradient."""
    return a + torch.relu(-a).detach()


class Block(nn.Module):
    """A residual block that runs its one ReLU three times."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.first(x))
        h = self.relu(self.second(h))
        return self.relu(self.third(h) + x)


class Network(nn.Module):
    def __init__(self, checkpointed: bool | None = None, inplace: bool = False) -> None:
        super().__init__()
        self.layer = nn.Sequential(Block(inplace), Block(inplace))
        self.head = nn.Linear(4, 2)
        self.reentrant = checkpointed

    def forward(self, x: Tensor) -> Tensor:
        for block in self.layer:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)

    def features(self, x: Tensor) -> Tensor:
        return self.layer(x)


def network(**settings) -> Network:
    torch.manual_seed(0)
    return Network(**settings).double()


def by_hand(model: Network, x: Tensor, linear: tuple[int, ...]) -> Tensor:
    """The same network with the ReLUs of those runs linearized, written out."""
    activations = [linearized if run in linear else torch.relu for run in range(3)]
    for block in model.layer:
        h = activations[0](block.first(x))
        h = activations[1](block.second(h))
        x = activations[2](block.third(h) + x)
    return model.head(x)


def batch() -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def slopes(run) -> Tensor:
    x = batch().requires_grad_()
    h = run(x)
    return torch.autograd.grad(h, x, torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view_as(h))[0]


RELUS = "layer.*.relu"


@pytest.mark.parametrize("runs", [(0,), (1,), (2,), (0, 1), (2, 0), (0, 1, 2)])
@pytest.mark.parametrize("inplace", [False, True])
def test_the_runs_named_are_linear_and_the_others_exact(runs: tuple[int, ...], inplace: bool):
    model, expected = network(inplace=inplace), slopes(lambda x: by_hand(network(), x, runs))
    conversion = lb.convert(model, where=lb.calls(RELUS, *runs))
    for _ in range(3):
        torch.testing.assert_close(slopes(model), expected, rtol=1e-12, atol=0)
    conversion.remove()
    assert torch.equal(slopes(model), slopes(network()))
    assert all("forward" not in vars(module) for module in model.modules())


def test_the_report_says_which_runs():
    conversion = lb.convert(network(), where=[lb.calls("layer.0.relu", 0), lb.calls("layer.*.relu", 1)])
    assert [(site.path, site.note) for site in conversion.changed] == [
        ("layer.0.relu", "runs 0, 1 alone"),
        ("layer.1.relu", "run 1 alone"),
    ]


def test_a_module_that_is_selected_as_a_whole_follows_in_every_run():
    expected = slopes(lambda x: by_hand(network(), x, (0, 1, 2)))
    for where in ([RELUS, lb.calls(RELUS, 0)], [lb.calls(RELUS, 0), RELUS], (lb.calls(RELUS, n) for n in range(3))):
        model = network()
        lb.convert(model, where=where)
        torch.testing.assert_close(slopes(model), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_runs_again_has_the_numbers_it_had(reentrant: bool):
    model = network(checkpointed=reentrant)
    lb.convert(model, where=lb.calls(RELUS, 0, 1))
    x, expected = batch().requires_grad_(), slopes(lambda x: by_hand(network(), x, (0, 1)))
    for _ in range(2):
        x.grad = None
        h = model(x)
        h.backward(torch.linspace(-1, 2, h.numel(), dtype=h.dtype).view_as(h))
        torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_segment_that_begins_between_two_runs_is_counted_from_there(reentrant: bool):
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

        def forward(self, x: Tensor, cut: bool = True) -> Tensor:
            def rest(h: Tensor) -> Tensor:
                return self.relu(self.layers[2](self.relu(self.layers[1](h))))

            h = self.relu(self.layers[0](x))
            return checkpoint(rest, h, use_reentrant=reentrant) if cut else rest(h)

    torch.manual_seed(0)
    model = Cut().double()
    exact = slopes(lambda x: model(x, cut=False))
    lb.convert(model, where=lb.calls("relu", 1))
    x, expected = batch().requires_grad_(), slopes(lambda x: model(x, cut=False))
    model(x).backward(torch.linspace(-1, 2, 24, dtype=torch.float64).view(6, 4))
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0)
    assert not torch.equal(expected, exact)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str):
    torch.compiler.reset()
    model, expected = network(), slopes(lambda x: by_hand(network(), x, (0, 1)))
    lb.convert(model, where=lb.calls(RELUS, 0, 1))
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(slopes(compiled), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # PyTorch's own, of a compiled block's input
def test_a_compiled_block_of_a_model_that_is_not():
    torch.compiler.reset()
    model, expected = network(), slopes(lambda x: by_hand(network(), x, (0, 1)))
    lb.convert(model, where=lb.calls(RELUS, 0, 1))
    for block in model.layer:
        block.compile(backend="aot_eager")
    for _ in range(2):
        torch.testing.assert_close(slopes(model), expected, rtol=1e-12, atol=1e-15)


def test_converting_what_is_compiled():
    torch.compiler.reset()
    model = torch.compile(network(), backend="aot_eager")
    lb.convert(model, where=lb.calls("_orig_mod.layer.*.relu", 0, 1))
    for _ in range(2):
        expected = slopes(lambda x: by_hand(network(), x, (0, 1)))
        torch.testing.assert_close(slopes(model), expected, rtol=1e-12, atol=1e-15)


def test_a_part_and_a_method_count_from_their_own_beginning():
    model, exact = network(), network()
    lb.convert(model, where=lb.calls(RELUS, 0, 1))
    for _ in range(2):
        assert torch.equal(slopes(model.features), slopes(model.layer))
        assert not torch.equal(slopes(model.features), slopes(exact.features))
        expected = slopes(lambda x: by_hand(network(), x, (0, 1)))
        torch.testing.assert_close(slopes(lambda x: model.head(model.features(x))), expected, rtol=1e-12, atol=0)
        assert torch.equal(slopes(model.layer[0].relu), torch.ones(6, 4) * slopes(lambda x: x))


def test_a_pass_that_fails_is_over():
    model = network()
    lb.convert(model, where=lb.calls(RELUS, 0))
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 5, dtype=torch.float64))
    handle = model.layer[1].register_forward_pre_hook(lambda module, inputs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch())
    handle.remove()
    torch.testing.assert_close(slopes(model), slopes(lambda x: by_hand(network(), x, (0,))), rtol=1e-12, atol=0)


def test_runs_that_nothing_records_count_too():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.relu(x)
            return self.relu(x) + 3 * self.relu(x)

    model = Half()
    lb.convert(model, where=lb.calls("relu", 1))
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [1.0, 4.0]


def test_a_model_inside_another_is_counted_by_its_own_passes():
    class Twice(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 3 * self.inner(x)

    inner = nn.Sequential(nn.Identity(), nn.ReLU())
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    with lb.convert(inner, where=lb.calls("1", 0)):
        assert torch.autograd.grad(Twice(inner)(x).sum(), x)[0].tolist() == [4.0, 4.0]
    with lb.convert(outer := Twice(inner), where=lb.calls("inner.1", 1)):
        assert torch.autograd.grad(outer(x).sum(), x)[0].tolist() == [3.0, 4.0]
        with lb.convert(outer, lb.Surrogate("sigmoid"), where=lb.calls("inner.1", 0)):
            (got,) = torch.autograd.grad(outer(x).sum(), x)
            s = torch.sigmoid(x.detach())
            torch.testing.assert_close(got, 3 + s * (1 - s))


def test_a_later_conversion_of_the_model_itself_counts_on():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x) + 3 * self.relu(x) + F.relu(x)

    model, x = Model(), torch.tensor([-1.0, 1.0], requires_grad=True)
    lb.convert(model, where=lb.calls("relu", 1))
    assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [3.0, 5.0]
    with lb.convert(model, lb.Linear(), where=lambda path, module: path == ""):
        assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [4.0, 5.0]
    assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [3.0, 5.0]


def test_an_earlier_conversion_keeps_the_other_runs():
    model, expected = network(), slopes(lambda x: by_hand(network(), x, (0, 1, 2)))
    first = lb.convert(model)
    second = lb.convert(model, lb.Exact(), where=lb.calls(RELUS, 2))
    torch.testing.assert_close(slopes(model), slopes(lambda x: by_hand(network(), x, (0, 1))), rtol=1e-12, atol=0)
    second.remove()
    torch.testing.assert_close(slopes(model), expected, rtol=1e-12, atol=0)
    first.remove()
    assert torch.equal(slopes(model), slopes(network()))


def test_a_copy_and_a_pickle_count_for_themselves():
    model, expected = network(), slopes(lambda x: by_hand(network(), x, (0, 1)))
    lb.convert(model, where=lb.calls(RELUS, 0, 1))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(copy.deepcopy(model))):
        torch.testing.assert_close(slopes(twin), expected, rtol=1e-12, atol=0)


def test_replicas_in_threads_count_for_themselves():
    model, expected = network(), slopes(lambda x: by_hand(network(), x, (0, 1)))
    lb.convert(model, where=lb.calls(RELUS, 0, 1))
    replicas = [copy.deepcopy(model) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda _: slopes(model), range(8)))
        own = list(pool.map(slopes, replicas * 2))
    for got in (*shared, *own):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_replicas_as_data_parallel_makes_them():
    model, expected = network(), slopes(lambda x: by_hand(network(), x, (0, 1)))
    lb.convert(model, where=lb.calls(RELUS, 0, 1))

    def replica(module: nn.Module) -> nn.Module:
        twin = module._replicate_for_data_parallel()
        twin._parameters = dict(module._parameters)
        twin._modules = {name: replica(child) for name, child in module._modules.items()}
        return twin

    torch.testing.assert_close(slopes(replica(model)), expected, rtol=1e-12, atol=0)


def test_functional_calls_inside_a_counted_module():
    class Cell(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) + x.tanh()

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = Cell()

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x) + 10 * self.cell(x)

    model = Loop()
    conversion = lb.convert(model, where=lb.calls("cell", 1))
    x = torch.tensor([-1.0], requires_grad=True)
    (got,) = torch.autograd.grad(model(x).sum(), x)
    torch.testing.assert_close(got, 1 - torch.tanh(x.detach()) ** 2 + 20)
    assert {site.what for site in conversion.changed} == {"relu (called)", "tanh (called)"}
    assert all(site.note.startswith("run 1 alone; it alone") for site in conversion.changed)


def test_a_layer_s_rule_for_a_single_run():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool1d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.pool(x))

    model = Pooled()
    lb.convert(model, where=lb.calls("pool", 1), layers=[lb.AveragedMaximum()])
    x = torch.tensor([[[1.0, 2.0, 4.0, 3.0]]], requires_grad=True)
    assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [[[0.0, 0.5, 0.5, 0.0]]]


def test_linear_in_a_sequential_is_not_taken_over_in_the_other_runs():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), relu, nn.Linear(2, 2), relu)
    lb.convert(model, where=lb.calls("1", 1))
    x = torch.randn(5, 2, requires_grad=True)
    (got,) = torch.autograd.grad(model(x).sum(), x)
    (expected,) = torch.autograd.grad(linearized(model[2](torch.relu(model[0](x)))).sum(), x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.calls("relu"), r"calls\('relu', ...\) takes the numbers of runs.*got none"),
        (lambda: lb.calls("relu", -1), "got -1"),
        (lambda: lb.calls("relu", 0, True), "got True"),
        (lambda: lb.calls("relu", "1"), "got '1'"),
        (lambda: lb.calls(0, 1), "calls takes a glob first"),
        (lambda: lb.calls(["a"], 1), "calls takes a glob first"),
        (
            lambda: lb.convert(network(), where=lb.calls("blocks.*", 0)),
            r"where=calls\('blocks.\*', 0\) matches no module",
        ),
        (lambda: lb.convert(network(), where=[lb.calls(RELUS, 0), 3]), "where must be a glob on modules' paths, calls"),
        (lambda: lb.collapse(network(), where=lb.calls(RELUS, 0)), "collapse selects modules as a whole, got calls"),
        (lambda: lb.convert(network(), where=lb.calls("head", 0)), "no elementwise activation to change"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message: str):
    with pytest.raises(lb.LinearBackpropError, match=message):
        make()


def test_a_generator_around_counted_runs_is_refused_and_nothing_is_left():
    class Streaming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x)

        def stream(self, x: Tensor) -> Iterator[Tensor]:
            yield self.relu(x)

    model = Streaming()
    with pytest.raises(lb.LinearBackpropError, match="'stream' of Streaming at the model is one"):
        lb.convert(model, where=lb.calls("relu", 0))
    assert all("forward" not in vars(module) for module in model.modules())


def test_a_run_that_never_comes_is_told_once():
    model = network()
    lb.convert(model, where=[lb.calls(RELUS, 1, 3), lb.calls("layer.1.relu", 0)])
    with pytest.warns(UserWarning, match=r"calls\('layer.\*.relu', 1, 3\): no run 3 .*'layer.0.relu' 3 times"):
        model(batch())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(batch())


def test_calls_are_values():
    assert lb.calls("a", 1, 0) == lb.Calls("a", 0, 1) != lb.calls("a", 0)
    assert eval(repr(lb.calls("a.*", 2, 0)), vars(lb)) == lb.calls("a.*", 0, 2)
    assert len({lb.calls("a", 0), lb.calls("a", 0)}) == 1
    assert pickle.loads(pickle.dumps(lb.calls("a", 0))) == lb.calls("a", 0)


def test_a_later_conversion_of_what_the_model_calls_keeps_the_earlier_rule_of_the_model_itself():
    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Called()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.inner(x) - 1)

    model, x = Model(), torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    lb.convert(model, lb.Linear())
    with lb.convert(model, lb.Exact(), where="inner"):
        assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [0.0, 1.0, 1.0]
    assert torch.autograd.grad(model(x).sum(), x)[0].tolist() == [1.0, 1.0, 1.0]
