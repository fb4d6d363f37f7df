"""How large runs on images are, beside the paper's, and how to make them again."""

from __future__ import annotations

from collections.abc import Sequence

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._scale import Scale

from .settings import epochs, learning_rate, penalty
from .sweep import PAPER_SIZE, SIZES

_PAPER_WIDTHS = {"width": 1, "inflate": 5}


def has_paper_width(run: Run) -> bool:
    """Whether the network is as wide as the paper's."""
    model = run.config.get("model", {})
    return all(model.get(name, factor) == factor for name, factor in _PAPER_WIDTHS.items())


def is_at_paper_scale(run: Run) -> bool:
    """Whether the network has the paper's width and is trained on as good as all of the data; the rest is held out."""
    return has_paper_width(run) and run.config["train_images"] >= PAPER_SIZE.train_images


def rerun(name: str, runs: Sequence[Run]) -> str:
    """The command that makes an experiment's runs again, at the scale of these."""
    is_smoke = runs[0].config["train_images"] <= SIZES[Scale.SMOKE].train_images
    theirs = Scale.PAPER if has_paper_width(runs[0]) else Scale.SMOKE if is_smoke else Scale.CPU
    return f"linear-backprop reproduce {name} --scale {theirs}"


def scale(runs: Sequence[Run]) -> str:
    """How large the runs are, and that the paper's are larger where they are."""
    config = runs[0].config
    model = config["model"]
    size = f"width {model['width']:g}" if "width" in model else f"inflate {model['inflate']}"
    rates = ", ".join(f"{rate:g}" for rate in sorted({learning_rate(run) for run in runs}))
    penalties = ", ".join(f"{factor:g}" for factor in sorted({penalty(run) for run in runs}))
    sources = "; ".join(sorted({run.record["source"] for run in runs}))
    here = (
        f"{size}, {config['train_images']:,} training images, {', '.join(map(str, sorted({*map(epochs, runs)})))} "
        f"epochs, batches of {config['recipe']['batch_size']}, vanilla SGD in "
        f"{config['recipe']['precision']}, learning rates {rates}, l2 penalties {penalties}. Data: {sources}."
    )
    if is_at_paper_scale(runs[0]) and min(map(epochs, runs)) >= PAPER_SIZE.epochs:
        return f"At the paper's scale: {here} The paper trains on all 50,000 images; 5,000 are held out here."
    return (
        f"This is not the paper's scale but a smaller one: {here} The paper has the whole width, 50,000 images, 100 "
        "epochs, learning rates 0.001, 0.0001 and 1e-05 and penalties 0.1 to 1e-06; what holds here may not hold there."
    )
