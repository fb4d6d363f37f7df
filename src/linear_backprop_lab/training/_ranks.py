"""Several processes that train one model together, each on its share of every batch."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import (
    _BatchNorm,  # pyright: ignore[reportPrivateUsage]
)
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")

_together: ContextVar[bool] = ContextVar("_together", default=False)


@contextmanager
def together() -> Generator[None]:
    """Have `train` make a run by all processes of the default process group; all of them call it."""
    token = _together.set(True)
    try:
        yield
    finally:
        _together.reset(token)


class Ranks:
    """The processes of the default process group within `together()`; else this one alone, and nothing changes.

    All take the same steps on the same global batches and hold the same weights. What comes out is what one
    process gives, but for the order of sums. A model that draws random numbers in its forward pass draws
    others than in one process.
    """

    def __init__(self) -> None:
        self.rank = dist.get_rank() if _together.get() else 0
        self.size = dist.get_world_size() if _together.get() else 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with its gradients averaged over the processes; the parameters stay the same objects.

        Batch normalization takes its statistics over the whole batch, by `SyncBatchNorm`, which needs GPUs.

        Raises:
            ValueError: It has batch normalization and is not on a GPU: over a share of the batch the
                statistics, and so the run, would be others than its configuration says.
        """
        if self.size == 1:
            return model
        if any(isinstance(module, _BatchNorm) for module in model.modules()):
            if not all(parameter.is_cuda for parameter in model.parameters()):
                raise ValueError(
                    "a model with batch normalization is trained by several processes on GPUs alone, where its "
                    "statistics can be taken over the whole batch; train it without torchrun"
                )
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model)

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch's indices, int64 (N,); the parts differ by one at most.

        Raises:
            ValueError: There are fewer than processes.
        """
        if self.size == 1:
            return batch
        if len(batch) < self.size:
            raise ValueError(
                f"a batch of {len(batch)} cannot be shared among {self.size} processes; take fewer processes, or a "
                "batch size that leaves a larger rest"
            )
        return batch.tensor_split(self.size)[self.rank]

    def weigh(self, loss: Tensor, share: Tensor, batch: Tensor) -> Tensor:
        """The mean loss of a share such that the average over the processes is the mean over the batch."""
        return loss if self.size == 1 else loss * (len(share) * self.size / len(batch))

    def total(self, sums: Tensor) -> Tensor:
        """The sum over the processes."""
        if self.size > 1:
            dist.all_reduce(sums)
        return sums

    def from_first(self, make: Callable[[], Value]) -> Value:
        """What the first process makes, on all of them; the others do not call it."""
        if self.size == 1:
            return make()
        made = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(made, src=0)
        return made[0]  # pyright: ignore[reportReturnType]
