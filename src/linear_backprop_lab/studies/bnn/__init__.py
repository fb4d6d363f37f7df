"""The paper's table of Precision@5 errors: a binarized ResNet-18 with hard tanh under each rule."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study
from linear_backprop_lab.studies.images.run import image_job

from .runs import NAME, bnn_awaited, bnn_jobs
from .section import bnn

STUDY = Study(
    experiments=(
        Experiment(
            name=NAME,
            summary="binarized ResNet-18 with hard tanh, the sweep under both rules: the paper's Precision@5 errors",
            records=NAME,
            jobs=bnn_jobs,
            job=image_job,
            awaited=bnn_awaited,
        ),
    ),
    sections=(Drawn(bnn, (NAME,)),),
)
