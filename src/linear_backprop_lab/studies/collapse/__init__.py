"""The collapsed passes against Backprop: accuracy after the same training, and seconds a step."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from .runs import NAME, collapse_awaited, collapse_job, collapse_jobs
from .section import collapse
from .timing import NAME as TIMING
from .timing import timing_job, timing_jobs

STUDY = Study(
    experiments=(
        Experiment(
            name=NAME,
            summary="collapsed passes against Backprop on MLPs and convnets, swept, then at the best with several "
            "seeds",
            records=NAME,
            jobs=collapse_jobs,
            job=collapse_job,
            awaited=collapse_awaited,
        ),
        Experiment(
            name=TIMING,
            summary="what their training steps cost, in turns in one process; for a machine that does nothing else",
            records=TIMING,
            jobs=timing_jobs,
            job=lambda root, config, data, download: timing_job(root, config),
            on_images=False,
            by_name_only=True,
        ),
    ),
    sections=(Drawn(collapse, (NAME, TIMING)),),
)
