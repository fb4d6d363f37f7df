"""What two workers send a step: DDP's gradients against the collapsed pass's aggregates, for the MLP.

    python benchmarks/bench_bytes.py [--samples 1024]

Counted where the collectives are handed their tensors, in two gloo processes; the gradients are compared, too.
"""

import argparse
import tempfile
from functools import partial

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from harness import markdown, where_and_when
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from works import MLP, step

import linear_backprop as lb

WORKERS = 2


class Counter:
    """Bytes given to all-reduce."""

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, tensor: Tensor) -> None:
        """Count one message."""
        self.bytes += tensor.numel() * tensor.element_size()

    def hook(self, group: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """DDP's own communication, counted."""
        self.add(bucket.buffer())
        return allreduce_hook(group, bucket)  # pyright: ignore[reportArgumentType]


def worker(rank: int, folder: str, samples: int) -> None:
    """Make the step both ways on half of the batch."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    x, target = (part.chunk(WORKERS)[rank] for part in MLP.batch(samples))
    ordinary, collapsed = Counter(), Counter()

    model = MLP.model()
    with lb.convert(model):
        run = DistributedDataParallel(model)
        run.register_comm_hook(None, ordinary.hook)
        step(run, x, target)
    expected = [p.grad for p in model.parameters()]

    model = MLP.model()
    fast = lb.collapse(model, process_group=dist.group.WORLD)
    all_reduce = dist.all_reduce
    dist.all_reduce = partial(counted, all_reduce, collapsed)
    step(fast, x, target)
    largest = max(((p.grad - g).norm() / g.norm()).item() for p, g in zip(model.parameters(), expected, strict=True))
    if rank == 0:
        torch.save((ordinary.bytes, collapsed.bytes, largest), f"{folder}/result.pt")
    dist.destroy_process_group()


def counted(all_reduce, counter: Counter, tensor: Tensor, *args, **kwargs):
    """All-reduce, its message counted."""
    counter.add(tensor)
    return all_reduce(tensor, *args, **kwargs)


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
