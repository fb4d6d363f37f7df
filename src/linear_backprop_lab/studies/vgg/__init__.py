"""Figures 2, 3 and 4: VGG19 under Backprop and Linear Backprop, and what the paper leaves open of them."""

from collections.abc import Callable

from linear_backprop_lab.records import Run
from linear_backprop_lab.studies._study import Drawn, Experiment, Study
from linear_backprop_lab.studies.images.run import image_job
from linear_backprop_lab.studies.images.settings import BACKPROP, LINEAR, is_at_paper_scale

from . import first_look_runs, runs
from .figure2 import figure2
from .figure3 import figure3_left, figure3_right
from .figure4 import figure4
from .first_look import images
from .full_scale import full_scale
from .open_settings import open_settings
from .paper_rate import paper_rate

_VGG = (runs.RECORDS,)


def _of(*networks: tuple[str, str]) -> Callable[[Run], bool]:
    """The runs of these pairs of activation and rule."""
    return lambda run: (run.config["model"]["activation"], run.config["rule"]) in networks


_TANH = _of(("Tanh", BACKPROP), ("Tanh", LINEAR))


def _in_full(run: Run) -> bool:
    """At the paper's own size, or at its learning rate."""
    return _TANH(run) and (is_at_paper_scale(run) or run.config["experiment"] == runs.PAPER_RATE)


STUDY = Study(
    experiments=(
        Experiment(
            name=first_look_runs.NAME,
            summary="a narrow VGG19 with tanh on a part of CIFAR-10, Backprop against Linear Backprop",
            records=first_look_runs.NAME,
            jobs=first_look_runs.images_jobs,
            job=image_job,
            by_default=True,
        ),
        Experiment(
            name="fig2",
            summary="VGG19 with tanh, each rule at the best of the sweep of fig4, with several seeds",
            records=runs.RECORDS,
            jobs=runs.figure2_jobs,
            job=image_job,
            awaited=runs.figure2_awaited,
        ),
        Experiment(
            name="fig3-left",
            summary="VGG19, ReLU with Backprop against tanh with Linear Backprop, swept, then for long with several "
            "seeds",
            records=runs.RECORDS,
            jobs=runs.figure3_left_jobs,
            job=image_job,
            awaited=runs.figure3_left_awaited,
        ),
        Experiment(
            name="fig3-right",
            summary="VGG19, ReLU under both rules, swept, then with several seeds",
            records=runs.RECORDS,
            jobs=runs.figure3_right_jobs,
            job=image_job,
            awaited=runs.figure3_right_awaited,
        ),
        Experiment(
            name="fig4",
            summary="VGG19 with tanh, the whole sweep of learning rates and l2 penalties under both rules",
            records=runs.RECORDS,
            jobs=runs.figure4_jobs,
            job=image_job,
        ),
        Experiment(
            name=runs.OPEN_SETTINGS,
            summary="fig4's sweep with other initializations, and without augmentation: the paper does not say",
            records=runs.OPEN_SETTINGS,
            jobs=runs.open_settings_jobs,
            job=image_job,
        ),
        Experiment(
            name=runs.PAPER_RATE,
            summary="VGG19 with tanh at the paper's learning rate, 0.001, for longer than fig4 takes at a small scale",
            records=runs.PAPER_RATE,
            jobs=runs.paper_rate_jobs,
            job=image_job,
            awaited=runs.paper_rate_awaited,
        ),
    ),
    sections=(
        Drawn(images, (first_look_runs.NAME,)),
        Drawn(full_scale, _VGG, _in_full, also=runs.PAPER_RATE, unfinished=True),
        Drawn(figure2, _VGG, _TANH),
        Drawn(figure3_left, _VGG, _of(("ReLU", BACKPROP), ("Tanh", LINEAR))),
        Drawn(figure3_right, _VGG, _of(("ReLU", BACKPROP), ("ReLU", LINEAR))),
        Drawn(figure4, _VGG, _TANH),
        Drawn(open_settings, (runs.OPEN_SETTINGS,), _TANH, also=runs.RECORDS),
        Drawn(paper_rate, (runs.PAPER_RATE,)),
    ),
)
