"""Figures 2, 3 and 4: VGG19 under Backprop and Linear Backprop, and what the paper leaves open of them."""

from collections.abc import Callable

from linear_backprop_lab.records import Run
from linear_backprop_lab.report.names import BACKPROP, LINEAR
from linear_backprop_lab.studies._study import Drawn, Experiment, Study
from linear_backprop_lab.studies.images.run import image_job
from linear_backprop_lab.studies.images.scale import is_at_paper_scale

from .figure2 import figure2
from .figure3 import figure3_left, figure3_right
from .figure4 import figure4, first_look
from .full_scale import full_scale
from .open_settings import open_settings
from .paper_rate import paper_rate
from .runs import FIRST_LOOK, OPEN_SETTINGS, PAPER_RATE, RECORDS, Sweeps, plan_of

_VGG = (RECORDS,)


def _of(activation: str, *rules: str) -> Callable[[Run], bool]:
    """The runs of an activation under one of the rules."""
    return lambda run: run.config["model"]["activation"] == activation and run.config["rule"] in rules


_tanh = _of("Tanh", BACKPROP, LINEAR)


def _in_full(run: Run) -> bool:
    """At the paper's own size, or at its learning rate."""
    return _tanh(run) and (is_at_paper_scale(run) or run.config["experiment"] == PAPER_RATE)


STUDY = Study(
    experiments=(
        Experiment(
            FIRST_LOOK,
            "a narrow VGG19 with tanh on a part of CIFAR-10, Backprop against Linear Backprop",
            plan_of(Sweeps.first_look),
            image_job,
            by_default=True,
        ),
        Experiment(
            "fig2",
            "VGG19 with tanh, each rule at the best of the sweep of fig4, with several seeds",
            plan_of(Sweeps.figure2),
            image_job,
            RECORDS,
        ),
        Experiment(
            "fig3-left",
            "VGG19, ReLU with Backprop against tanh with Linear Backprop, swept, then for long with several seeds",
            plan_of(Sweeps.figure3_left),
            image_job,
            RECORDS,
        ),
        Experiment(
            "fig3-right",
            "VGG19, ReLU under both rules, swept, then with several seeds",
            plan_of(Sweeps.figure3_right),
            image_job,
            RECORDS,
        ),
        Experiment(
            "fig4",
            "VGG19 with tanh, the whole sweep of learning rates and l2 penalties under both rules",
            plan_of(Sweeps.figure4),
            image_job,
            RECORDS,
        ),
        Experiment(
            OPEN_SETTINGS,
            "fig4's sweep with other initializations, and without augmentation: the paper does not say",
            plan_of(Sweeps.open_settings),
            image_job,
        ),
        Experiment(
            PAPER_RATE,
            "VGG19 with tanh at the paper's learning rate, 0.001, for longer than fig4 takes at a small scale",
            plan_of(Sweeps.paper_rate),
            image_job,
        ),
    ),
    sections=(
        Drawn("images", first_look, (FIRST_LOOK,)),
        Drawn("fig2-full", full_scale, _VGG, (_in_full,), also=PAPER_RATE, unfinished=True),
        Drawn("fig2", figure2, _VGG, (_tanh,)),
        Drawn("fig3-left", figure3_left, _VGG, (_of("ReLU", BACKPROP), _of("Tanh", LINEAR))),
        Drawn("fig3-right", figure3_right, _VGG, (_of("ReLU", BACKPROP), _of("ReLU", LINEAR))),
        Drawn("fig4", figure4, _VGG, (_tanh,)),
        Drawn("open-settings", open_settings, (OPEN_SETTINGS,), (_tanh,), also=RECORDS),
        Drawn("paper-rate", paper_rate, (PAPER_RATE,)),
    ),
)
