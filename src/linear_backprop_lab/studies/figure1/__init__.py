"""Figure 1: fifty small networks overfit five points of a cubic under each rule."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from .runs import NAME, job, plan
from .section import figure1

STUDY = Study(
    experiments=(
        Experiment(
            NAME,
            "50 small MLPs a rule fit five points of a cubic: fit, generalisation, unit activations",
            plan,
            job,
            views=("fig1-left", "fig1-middle", "fig1-right"),
            on_images=False,
            by_default=True,
        ),
    ),
    sections=(Drawn("fig1", figure1, (NAME,)),),
)
