"""The paper's sentence that the learning rule is a regularization term, tested on the update's Jacobian."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from .runs import NAME, regularizer_job, regularizer_jobs
from .section import regularizer

STUDY = Study(
    experiments=(
        Experiment(
            name=NAME,
            summary="whether the update is a gradient at all: the symmetry of its Jacobian, on small MLPs",
            records=NAME,
            jobs=regularizer_jobs,
            job=lambda root, config, data, download: regularizer_job(root, config),
            on_images=False,
        ),
    ),
    sections=(Drawn(regularizer, (NAME,)),),
)
