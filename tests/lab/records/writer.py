"""What is killed in `test_kill.py`: writes every kind of file a run has, an epoch after another."""

from pathlib import Path

import numpy as np
import torch

from linear_backprop_lab.records import Run

EPOCHS = 12


def run_of(root: Path, seed: int) -> Run:
    return Run(root, {"experiment": "kill", "seed": seed})


def write(root: str, seed: int) -> None:
    run = run_of(Path(root), seed)
    checkpoint = run.resume()
    if checkpoint is None:
        run.start()
        done = 0
    else:
        done = checkpoint["epoch"]
        run.keep_metrics(done)
    for epoch in range(done + 1, EPOCHS + 1):
        run.log(epoch=epoch, filler="x" * 2000)
        run.save_arrays("state", values=np.full(20_000, epoch))
        run.save_checkpoint(epoch=epoch, weight=torch.full((20_000,), float(epoch)))
    run.close(epochs=len(run.metrics))
