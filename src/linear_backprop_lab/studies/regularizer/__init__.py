"""The paper's sentence that the learning rule is a regularization term, tested on the update's Jacobian."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from .runs import NAME, job, plan
from .section import regularizer

STUDY = Study(
    experiments=(
        Experiment(
            NAME,
            "whether the update is a gradient at all: the symmetry of its Jacobian, on small MLPs",
            plan,
            job,
            on_images=False,
        ),
    ),
    sections=(Drawn("regularizer", regularizer, (NAME,)),),
)
