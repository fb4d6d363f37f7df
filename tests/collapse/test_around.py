"""What stands around a collapsed part: attention below it, DDP about it, what traces it."""

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import linear_backprop as lb

pytestmark = pytest.mark.usefixtures("in_float64")


class AboveAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))


@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear()])
def test_attention_may_lie_below(rule: lb.Linear | lb.MeanLinear):
    torch.manual_seed(0)
    model = AboveAttention()
    twin = copy.deepcopy(model)
    lb.convert(twin, rule)
    x = torch.randn(20, 4, 6)
    for run in (lb.collapse(model, rule, where="head.1", always=True), twin):
        run(x).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


class OfIntegers(nn.Module):
    def __init__(self, read: Callable[[nn.Module, Tensor], Tensor], frozen: bool = True) -> None:
        super().__init__()
        self.read, self.embedding = read, nn.Embedding(256, 6).requires_grad_(not frozen)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, i: Tensor) -> Tensor:
        return self.net(self.read(self, i))


def bytes_(n: int = 20) -> Tensor:
    return torch.randint(256, (n, 6), generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("rule", [lb.Linear(), lb.MeanLinear(), lb.LocallyExact()], ids=repr)
@pytest.mark.parametrize(
    "read",
    [
        lambda s, i: i.double() / 255 - 0.5,
        lambda s, i: nn.functional.one_hot(i % 6, 6).double().sum(1).sqrt(),
        lambda s, i: s.embedding(i).mean(1),
        lambda s, i: i.sort(1)[0] / (1.0 + i.double().mean(0)),
        lambda s, i: torch.relu(i.double() - 100) / 100,
    ],
    ids=["bytes", "one-hot", "frozen embedding", "batch mean", "activation"],
)
def test_what_is_made_of_integers_and_takes_no_gradient_may_be_anything(
    read: Callable[[nn.Module, Tensor], Tensor], rule: lb.Linear | lb.MeanLinear | lb.LocallyExact
):
    torch.manual_seed(0)
    model = OfIntegers(read)
    twin = copy.deepcopy(model)
    lb.convert(twin, rule)
    for run in (lb.collapse(model, rule, always=True), twin):
        for n in (20, 1, 7):
            run(bytes_(n)).square().mean().backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda s, i: s.embedding(i).mean(1), "Embedding at 'embedding' cannot be collapsed: its input is an index"),
        (lambda s, i: s.embedding.weight[:6, 0] * i.double(), None),
        (lambda s, i: s.embedding.weight[:6, 0] * (i > 9), "it reads integers of the samples"),
        (lambda s, i: i * torch.arange(len(i))[:, None] / 9, "arange at 'the model' cannot be collapsed"),
        (lambda s, i: i[i > 9].double().mean() + i, "its size depends on values"),
        (lambda s, i: (i + len(i) // 4).double(), "depends on the number of samples, and not in proportion"),
        (lambda s, i: torch.rand_like(i, dtype=torch.double), "rand_like at 'the model' cannot be collapsed"),
    ],
)
def test_what_takes_one_or_draws_random_numbers_may_not(
    read: Callable[[nn.Module, Tensor], Tensor], reason: str | None
):
    fast = lb.collapse(OfIntegers(read, frozen=False), always=True)
    if reason is None:
        fast(bytes_()).sum().backward()
    else:
        with pytest.raises(lb.CollapseError, match=reason):
            fast(bytes_())


@pytest.fixture
def one_worker() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()])
def test_ddps_buckets_do_not_split_the_graph(rule: lb.Linear | lb.LocallyExact):
    torch.manual_seed(0)
    widths = (6, 400, 400, 400, 3)  # of 3.8 MB: the first bucket takes 1
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.Tanh())]
    model = nn.Sequential(*layers[:-1])
    twin = copy.deepcopy(model)
    fast = lb.collapse(model, rule, always=True)
    lb.convert(twin, rule)
    x = torch.randn(20, 6)
    for run in (nn.parallel.DistributedDataParallel(fast, bucket_cap_mb=1), twin):
        run(x).square().mean().backward()
    assert "emit: 3 non-linearities" in str(fast)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("trace", [torch.jit.trace, lambda model, x: torch.export.export(model, (x,))])
def test_a_trace_is_made_of_the_model_itself(trace: Callable[[nn.Module, Tensor], object]):
    fast, x = lb.collapse(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), always=True), torch.randn(20, 6)
    fast(x)
    with pytest.raises(lb.CollapseError, match=r"cannot be traced or exported; its model can.*fast\.uncollapsed"):
        trace(fast, x)
    trace(fast.uncollapsed, x)


def in_a_block(fast: nn.Module, x: Tensor) -> Tensor:
    with lb.backward_rule():
        return fast(x)


@pytest.mark.parametrize(
    "run", [in_a_block, lambda fast, x: lb.attribution.GuidedBackprop(fast).attribute(x, target=1)]
)
def test_no_other_rule_governs_it(run: Callable[[nn.Module, Tensor], Tensor]):
    fast, x = lb.collapse(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), always=True), torch.randn(20, 6)
    with pytest.raises(lb.CollapseError, match=r"follows no other, .*: give it the model, fast\.uncollapsed"):
        run(fast, x)
    run(fast.uncollapsed, x)


def test_tensors_without_values_are_refused():
    fast = lb.collapse(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to("meta"), always=True)
    with pytest.raises(lb.CollapseError, match="meta device"):
        fast(torch.randn(20, 6, device="meta"))
