"""Figure 1: fifty small networks overfit five points of a cubic under each rule."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from .runs import NAME, VIEWS, figure1_job, figure1_jobs_at
from .section import figure1

STUDY = Study(
    experiments=(
        Experiment(
            name=NAME,
            summary="50 small MLPs a rule fit five points of a cubic: fit, generalisation, unit activations",
            records=NAME,
            jobs=figure1_jobs_at,
            job=lambda root, config, data, download: figure1_job(root, config),
            views=VIEWS,
            on_images=False,
            by_default=True,
        ),
    ),
    sections=(Drawn(figure1, (NAME,)),),
)
