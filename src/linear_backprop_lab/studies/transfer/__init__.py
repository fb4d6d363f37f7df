"""Do adversarial examples crafted with a linear backward pass fool other networks better?"""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from . import networks, runs
from .section import transfer

STUDY = Study(
    experiments=(
        Experiment(
            networks.NAME,
            "trains the networks of the study of transfer attacks",
            networks.network_plan,
            networks.network_job,
        ),
        Experiment(
            runs.NAME,
            "adversarial examples of many backward passes, tried on other networks; trains these first",
            runs.plan,
            runs.job,
            needs=(networks.NAME,),
        ),
    ),
    sections=(Drawn("transfer", transfer, (runs.NAME,), also=networks.NAME),),
)
