"""The collapsed passes against Backprop: accuracy after the same training, and seconds a step."""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from .runs import NAME, job, plan
from .section import collapse
from .timing import NAME as TIMING
from .timing import timing_job, timing_plan

STUDY = Study(
    experiments=(
        Experiment(
            NAME,
            "collapsed passes against Backprop on MLPs and convnets, swept, then at the best with several seeds",
            plan,
            job,
        ),
        Experiment(
            TIMING,
            "what their training steps cost, in turns in one process; for a machine that does nothing else",
            timing_plan,
            timing_job,
            on_images=False,
            by_name_only=True,
        ),
    ),
    sections=(Drawn("collapse", collapse, (NAME, TIMING)),),
)
