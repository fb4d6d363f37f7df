"""What stands around a collapsed part: attention below it, DDP about it, what traces it."""

import contextlib
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


class Helper:
    """No module, and called by one."""

    def work(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Unregistered(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class Helped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.helper, self.others = Helper(), [Unregistered()]

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.others[0](self.helper.work(self.a(x))))


def of_linear(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor | None]:
    return lambda module, args, out: change(out) if isinstance(module, nn.Linear) else None


def hook_all(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    return nn.modules.module.register_module_forward_hook(of_linear(lambda out: 2 * out)).remove


def pre_hook_all(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    return nn.modules.module.register_module_forward_pre_hook(lambda module, args: (args[0] * 0.5,)).remove


def patch_call(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    call = nn.Module.__call__
    patch.setattr(nn.Module, "__call__", lambda self, *args: call(self, *args) * 0.5)
    return patch.undo


def patch_helper(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    patch.setattr(Helper, "work", lambda self, x: torch.relu(x))
    return patch.undo


def patch_unregistered(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    patch.setattr(Unregistered, "forward", lambda self, x: torch.relu(x))
    return patch.undo


@pytest.mark.parametrize("change", [hook_all, pre_hook_all, patch_call, patch_helper, patch_unregistered])
def test_what_changes_a_model_s_code_from_outside_is_followed(change, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model, x = Helped(), torch.randn(20, 6)
    fast = lb.collapse(model, always=True)
    before = fast(x)
    undo = change(monkeypatch)
    try:
        inside = fast.forward(x), model(x)
    finally:
        undo()
    assert not torch.equal(inside[0], before)
    torch.testing.assert_close(*inside, rtol=1e-12, atol=1e-14)
    assert torch.equal(fast(x), before)


def test_hooks_on_all_modules_see_those_of_the_user_alone():
    seen: list[str] = []
    fast, x = lb.collapse(Helped(), always=True), torch.randn(20, 6)
    fast(x).sum().backward()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, out: seen.append(type(module).__name__)
    )
    try:
        fast(x).sum().backward()
    finally:
        handle.remove()
    assert set(seen) <= {"Collapsed", "Helped", "Linear", "Unregistered"}


class Doubling(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {})) * (2 if func is torch.tanh else 1)


@pytest.mark.parametrize("rule", [lb.Linear(), lb.LocallyExact()], ids=repr)
def test_torch_function_modes_of_the_user_s_own_are_refused(rule: lb.Linear | lb.LocallyExact):
    fast, x = lb.collapse(Helped(), rule, always=True), torch.randn(20, 6)
    with Doubling(), pytest.raises(lb.CollapseError, match="a torch function mode is active, Doubling"):
        fast(x)
    with torch.device("cpu"):
        fast(x).sum().backward()


@pytest.mark.parametrize("dimension", [0, 2])
@pytest.mark.parametrize("mark", ["mark_dynamic", "maybe_mark_dynamic", "mark_static"])
def test_what_a_user_told_dynamo_of_an_input_stands_and_does_not_matter(mark: str, dimension: int):
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(21, 2))
    fast = lb.collapse(model, always=True)
    for n in (8, 11):
        x = torch.randn(n, 2, 9)
        getattr(torch._dynamo, mark)(x, dimension)
        told = copy.copy(vars(x))
        gradients = []
        for run in (fast, model):
            model.zero_grad()
            with lb.convert(model) if run is model else contextlib.nullcontext():
                run(x).square().mean().backward()
            gradients.append([p.grad for p in model.parameters()])
        assert vars(x) == told
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_what_the_batch_is_read_off_is_said():
    model = nn.Sequential()
    model.bag, model.head = nn.EmbeddingBag(50, 6), nn.Sequential(nn.Tanh(), nn.Linear(6, 3))
    model.forward = lambda text, offsets: model.head(model.bag(text, offsets))
    fast = lb.collapse(model, where=lb.after("bag"), always=True)
    with pytest.raises(lb.CollapseError, match="length 30, as long as the first"):
        fast(torch.randint(50, (30,)), torch.tensor([0, 4, 9, 15, 22]))
