"""Collapse over several workers: two processes equal one on the union of their batches, and send aggregates alone."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import linear_backprop as lb

WORKERS, N, WIDTH, C = 2, 64, 200, 4
RULES = {
    "linear": lb.Linear(),
    "mean": lb.MeanLinear(),
    "local": lb.LocallyExact(),
    "local-mean": lb.LocallyExact(lb.MeanLinear()),
    "micro-batches": lb.Linear(),
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    widths = [12, WIDTH, WIDTH]
    layers = [m for n, k in itertools.pairwise(widths) for m in (nn.Linear(n, k), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(WIDTH, C)).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N, 12, generator=generator, dtype=torch.float64), torch.randint(C, (N,), generator=generator)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    try:
        results = {kind: collapsed(kind, rank) for kind in RULES}
        results["ddp"] = ordinary(rank)
        results["refusals"] = [str(refusal_of(run, rank)) for run in (other_outputs, other_micro_batches)]
        results["maps"] = {kind: str(refusal_of(partial(other_maps, kind=kind), rank)) for kind in OTHER_MAPS}
        results["uneven"] = {kind: uneven(kind, rank) for kind in UNEVEN}
        results["frozen"] = [str(refusal_of(partial(other_frozen, options=o), rank)) for o in ALIKE_PARAMETERS]
        results["unread"] = {kind: unread(kind) for kind in RULES if kind != "micro-batches"}
        if rank == 0:  # a forward pass waits for nobody
            results["alone"] = [lb.collapse(net(), process_group=dist.group.WORLD, **o)(batch()[0]) for o in ALONE]
        torch.save(results, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def collapsed(kind: str, rank: int) -> dict:
    """Gradients of this worker's part, and the bytes that its collectives were given."""
    sent, all_reduce = 0, dist.all_reduce

    def counted(tensor: Tensor, *args, **kwargs):
        nonlocal sent
        sent += tensor.numel() * tensor.element_size()
        return all_reduce(tensor, *args, **kwargs)

    model = net()
    x, target = (part.chunk(WORKERS)[rank] for part in batch())
    fast = lb.collapse(model, RULES[kind], process_group=dist.group.WORLD)
    dist.all_reduce = counted
    try:
        if kind == "micro-batches":
            with fast.accumulate():
                for part, labels in zip(x.split(10), target.split(10), strict=True):
                    (F.cross_entropy(fast(part), labels, reduction="sum") / len(x)).backward()
        else:
            F.cross_entropy(fast(x), target).backward()
    finally:
        dist.all_reduce = all_reduce
    return {"gradients": [p.grad for p in model.parameters()], "sent": sent}


class Heads(nn.Module):
    """Of the same width, so that sums for one would fit the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads = net(), nn.ModuleList(nn.Linear(C, 2).double() for _ in range(2))

    def forward(self, x: Tensor) -> list[Tensor]:
        h = torch.relu(self.body(x))
        return [head(h) for head in self.heads]


def unread(kind: str) -> list[bool]:
    model = Heads()
    lb.collapse(model, RULES[kind], always=True, process_group=dist.group.WORLD)(batch()[0])[0].sum().backward()
    return [p.grad is not None for p in model.parameters()]


def other_outputs(rank: int) -> None:
    fast = lb.collapse(Heads(), process_group=dist.group.WORLD)
    fast(batch()[0])[rank].sum().backward()


def other_micro_batches(rank: int) -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(12, 3)).double()
    fast = lb.collapse(nn.Sequential(model, nn.Tanh()), process_group=dist.group.WORLD)
    with fast.accumulate():
        for part in batch()[0].split(16 * (1 + rank)):
            fast(part).sum().backward()


class Noisy(nn.Module):
    """Its weight has noise of its own, another on each worker; the sums would fit."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.top = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.below(x)), F.dropout(self.top.weight), self.top.bias)


class Dropping(nn.Module):
    """One of its layers is left out."""

    def __init__(self, left_out: int) -> None:
        super().__init__()
        self.layers, self.left_out = nn.ModuleList(nn.Linear(12, 12) for _ in range(3)), left_out

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = x if index == self.left_out else x + torch.relu(layer(x))
        return x


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return torch.tanh(scale * self.layer(x))


class WithPenalty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.layer(x)), self.layer.weight.square().sum()


def seen(net: nn.BatchNorm1d, rank: int) -> nn.BatchNorm1d:
    with torch.no_grad():
        net(torch.randn(32, 12, generator=torch.Generator().manual_seed(rank), dtype=torch.float64))
    return net.eval()


def begun_anew(rank: int) -> nn.Module:
    torch.manual_seed(rank)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3))


OTHER_MAPS: dict[str, Callable[[int], tuple[nn.Module, list[Tensor]]]] = {
    "noise": lambda rank: (Noisy(), [torch.randn(8, 12)]),
    "layers": lambda rank: (Dropping(rank), [torch.randn(8, 12)]),
    "buffers": lambda rank: (nn.Sequential(seen(nn.BatchNorm1d(12).double(), rank), nn.Tanh()), [torch.randn(8, 12)]),
    "argument": lambda rank: (Scaled(), [torch.randn(8, 12), torch.tensor(1.0 + rank)]),
    "parameters": lambda rank: (begun_anew(rank), [torch.randn(8, 12)]),
    "shapes": lambda rank: (convolutions(), [torch.randn(8, 2, 4, 4) if rank else torch.randn(8, 2, 2, 8)]),
    "sizes": lambda rank: (nn.Sequential(nn.Conv1d(2, 3, 1), nn.Tanh(), nn.Flatten()), [torch.randn(8, 2, 4 + rank)]),
    "order": lambda rank: (
        convolutions(),
        [torch.randn(8, 2, 4, 4).to(memory_format=torch.channels_last if rank else torch.contiguous_format)],
    ),
}


def other_maps(rank: int, kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = OTHER_MAPS[kind](rank)
    fast = lb.collapse(model.double(), process_group=dist.group.WORLD)
    torch.manual_seed(rank)
    fast(*(x.double() for x in inputs)).sum().backward()


def loss_of(y: Tensor | tuple[Tensor, Tensor], samples: int) -> Tensor:
    y, penalty = y if isinstance(y, tuple) else (y, torch.zeros(()))
    return y.square().sum() + samples * penalty


UNEVEN = {  # a model, a rule, and the sizes that follow the batch's on each worker
    "mean": (net, lb.MeanLinear(), [(12,), (12,)]),
    "local-mean": (net, lb.LocallyExact(lb.MeanLinear()), [(12,), (12,)]),
    "penalty": (lambda: WithPenalty().double(), lb.Linear(), [(12,), (12,)]),
    "lengths": (net, lb.Linear(), [(5, 12), (7, 12)]),
}


def parts_of(kind: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    sizes = UNEVEN[kind][2]
    return [torch.randn(9 + 4 * i, *s, generator=generator, dtype=torch.float64) for i, s in enumerate(sizes)]


def uneven(kind: str, rank: int) -> list[Tensor]:
    make, rule, _ = UNEVEN[kind]
    torch.manual_seed(0)
    model, x = make(), parts_of(kind)[rank]
    loss_of(lb.collapse(model, rule, process_group=dist.group.WORLD)(x), len(x)).backward()
    return [p.grad for p in model.parameters()]


ALIKE_PARAMETERS = [{"rule": lb.LocallyExact()}, {"where": "3"}]  # the mean of one could be taken for another's
ALONE = [{}, *ALIKE_PARAMETERS]


def other_frozen(rank: int, options: dict) -> None:
    model = nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    model[2 * rank].requires_grad_(False)
    lb.collapse(model, process_group=dist.group.WORLD, **options)(batch()[0]).sum().backward()


def refusal_of(run: Callable[[int], None], rank: int) -> lb.CollapseError | None:
    try:
        return run(rank)
    except lb.CollapseError as error:
        return error


def ordinary(rank: int) -> dict:
    """The same under DDP, which is gone before the process group is (see `conversion/test_distributed.py`)."""
    sent = 0

    def hook(group: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        nonlocal sent
        sent += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(group, bucket)

    model = net()
    run = DistributedDataParallel(model)
    run.register_comm_hook(None, hook)
    x, target = (part.chunk(WORKERS)[rank] for part in batch())
    F.cross_entropy(run(x), target).backward()
    return {"gradients": [p.grad for p in model.parameters()], "sent": sent}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What every worker found."""
    if not dist.is_available():
        pytest.skip("torch was built without torch.distributed")
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(worker, args=(str(folder),), nprocs=WORKERS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORKERS)]


@pytest.mark.xdist_group("workers")
@pytest.mark.parametrize("kind", RULES)
def test_two_processes_equal_one(kind: str, results: list[dict]):
    model = net()
    x, target = batch()
    with lb.convert(model, RULES[kind]):
        F.cross_entropy(model(x), target).backward()
    expected = [p.grad for p in model.parameters()]
    for got in results:
        # float64 sums in another order.
        torch.testing.assert_close(got[kind]["gradients"], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.xdist_group("workers")
def test_what_is_sent(results: list[dict]):
    """(C + 1) samples of inputs and activations, 2 C + 1 sums, and what is compared, against every parameter."""
    tensors = len([*net().parameters()])
    marks = 2 * 3 + 3 * tensors
    assert results[0]["linear"]["sent"] == 8 * ((C + 1) * (12 + 2 * WIDTH) + 2 * C + 1 + marks)
    assert results[0]["ddp"]["sent"] == 8 * sum(p.numel() for p in net().parameters())
    assert results[0]["ddp"]["sent"] > 20 * results[0]["linear"]["sent"]


@pytest.mark.xdist_group("workers")
def test_sums_for_other_outputs_are_refused_on_every_worker(results: list[dict]):
    for got in results:
        assert ["the workers' losses read different outputs" in refusal for refusal in got["refusals"]] == [True, True]


@pytest.mark.xdist_group("workers")
@pytest.mark.parametrize("kind", ["linear", "mean", "local", "local-mean"])
def test_what_no_worker_s_loss_reads_has_no_gradient(kind: str, results: list[dict]):
    model = Heads()
    model(batch()[0])[0].sum().backward()
    for got in results:
        assert got["unread"][kind] == [p.grad is not None for p in model.parameters()]


@pytest.mark.xdist_group("workers")
def test_one_worker_runs_forward_alone(results: list[dict]):
    for y in results[0]["alone"]:
        torch.testing.assert_close(y, net()(batch()[0]))


@pytest.mark.xdist_group("workers")
def test_means_for_other_parameters_are_refused_on_every_worker(results: list[dict]):
    for got in results:
        assert ["other parameters take gradients" in refusal for refusal in got["frozen"]] == [True, True]


@pytest.mark.xdist_group("workers")
@pytest.mark.parametrize("kind", OTHER_MAPS)
def test_aggregates_under_another_map_are_refused_on_every_worker(kind: str, results: list[dict]):
    for got in results:
        assert "added up" in got["maps"][kind]


@pytest.mark.xdist_group("workers")
@pytest.mark.parametrize("kind", UNEVEN)
def test_batches_need_not_be_alike(kind: str, results: list[dict]):
    make, rule, _ = UNEVEN[kind]
    torch.manual_seed(0)
    model, parts = make(), parts_of(kind)
    with lb.convert(model, rule):
        if isinstance(rule, lb.Linear):
            for x in parts:
                loss_of(model(x), len(x)).backward()
        else:  # the mean is over all samples
            loss_of(model(torch.cat(parts)), 0).backward()
    for got in results:
        torch.testing.assert_close(
            got["uneven"][kind], [p.grad / WORKERS for p in model.parameters()], rtol=1e-10, atol=1e-14
        )
