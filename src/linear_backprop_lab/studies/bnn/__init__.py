"""The paper's table of Precision@5 errors: a binarized ResNet-18 with hard tanh under each rule."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study
from linear_backprop_lab.studies.images.run import image_job

from .runs import NAME, plan
from .section import bnn

STUDY = Study(
    experiments=(
        Experiment(
            NAME,
            "binarized ResNet-18 with hard tanh, the sweep under both rules: the paper's Precision@5 errors",
            plan,
            image_job,
        ),
    ),
    sections=(Drawn("bnn", bnn, (NAME,)),),
)
