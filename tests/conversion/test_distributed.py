"""Converted models under DistributedDataParallel and FSDP2: two processes, equal to one on the whole batch."""

import gc
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import linear_backprop as lb

WORKERS = 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.ReLU(inplace=True))
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(self.layers(x)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net()


def batch() -> Tensor:
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1))


def worker(rank: int, store: str, kind: str, result: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS)
    try:
        whole = gradients(rank, kind)
        if rank == 0:
            torch.save(whole, result)
    finally:
        gc.collect()  # FSDP2's model is in cycles with what holds the process group
        dist.destroy_process_group()


def gradients(rank: int, kind: str) -> dict[str, Tensor]:
    """Every parameter's whole gradient.

    A function of its own, for the model has to go before the process group: what goes last joins Gloo's threads, and
    DDP would do so under the GIL that they wait for (pytorch/pytorch#56297), FSDP2 when the interpreter is gone.
    """
    model = net()
    lb.convert(model)
    if kind == "ddp":
        model = DistributedDataParallel(model)
    else:
        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (WORKERS,)))
    model(batch().chunk(WORKERS)[rank]).square().mean().backward()
    return {
        name.removeprefix("module."): p.grad if kind == "ddp" else p.grad.full_tensor()
        for name, p in model.named_parameters()
    }


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_equal_one(kind: str, tmp_path: Path):
    result = tmp_path / "gradients.pt"
    mp.spawn(worker, args=(str(tmp_path / "store"), kind, str(result)), nprocs=WORKERS)
    got = torch.load(result, weights_only=True)
    model = net()
    lb.convert(model)
    model(batch()).square().mean().backward()
    for name, parameter in model.named_parameters():
        # float32 sums in another order.
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-5, atol=1e-7)
