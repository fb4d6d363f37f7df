"""What two workers send a step: DDP's gradients against the collapsed pass's aggregates, for the MLP.

    python benchmarks/bench_bytes.py [--samples 1024]

Counted where the collectives are handed their tensors, in two gloo processes; the gradients are compared, too.
"""

import argparse
import tempfile
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from harness import markdown, where_and_when
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from works import MLP, step

import linear_backprop as lb

WORKERS = 2


def sent_by_ddp(model: nn.Module, x: Tensor, target: Tensor) -> int:
    """The bytes that a step of the model under DDP hands to all-reduce.

    DDP is gone at the end, before the process group is destroyed: what goes last joins Gloo's threads, and DDP would
    do so under the GIL that they wait for (pytorch/pytorch#56297).
    """
    sent = 0

    def hook(group: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        nonlocal sent
        sent += _bytes(bucket.buffer())
        return allreduce_hook(group, bucket)  # pyright: ignore[reportArgumentType]

    run = DistributedDataParallel(model)
    run.register_comm_hook(None, hook)
    step(run, x, target)
    return sent


def sent_by_collapse(fast: nn.Module, x: Tensor, target: Tensor) -> int:
    """The bytes that a step of a model collapsed with a process group hands to all-reduce."""
    sent, all_reduce = 0, dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal sent
        sent += _bytes(tensor)
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    try:
        step(fast, x, target)
    finally:
        dist.all_reduce = all_reduce
    return sent


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def worker(rank: int, folder: str, samples: int) -> None:
    """Make the step both ways on half of the batch."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    x, target = (part.chunk(WORKERS)[rank] for part in MLP.batch(samples))

    model = MLP.model()
    with lb.convert(model):
        ordinary = sent_by_ddp(model, x, target)
    expected = [p.grad for p in model.parameters()]

    model = MLP.model()
    collapsed = sent_by_collapse(lb.collapse(model, process_group=dist.group.WORLD), x, target)
    largest = max(((p.grad - g).norm() / g.norm()).item() for p, g in zip(model.parameters(), expected, strict=True))
    if rank == 0:
        torch.save((ordinary, collapsed, largest), f"{folder}/result.pt")
    dist.destroy_process_group()


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1024, help="of both workers together")
    samples = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(folder, samples), nprocs=WORKERS)
        ordinary, collapsed, largest = torch.load(f"{folder}/result.pt", weights_only=True)
    print(f"Counted on {where_and_when()}. {MLP.name}, N = {samples}, {WORKERS} workers.\n")
    row = [f"{ordinary:,}", f"{collapsed:,}", f"1/{ordinary / collapsed:.0f}", f"{largest:.0e}"]
    print(markdown(["bytes a step, DDP", "collapsed", "ratio", "largest relative difference of a gradient"], [row]))


if __name__ == "__main__":
    main()
