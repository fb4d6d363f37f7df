"""Do adversarial examples crafted with a linear backward pass fool other networks better?"""

from linear_backprop_lab.studies._study import Drawn, Experiment, Study

from . import networks, runs
from .section import transfer

STUDY = Study(
    experiments=(
        Experiment(
            name=networks.NAME,
            summary="trains the networks of the study of transfer attacks",
            records=networks.NAME,
            jobs=networks.network_jobs,
            job=networks.network_job,
        ),
        Experiment(
            name=runs.NAME,
            summary="adversarial examples crafted with linear and other backward passes, tried on other networks",
            records=runs.NAME,
            jobs=runs.transfer_jobs,
            job=runs.transfer_job,
        ),
    ),
    sections=(Drawn(transfer, (runs.NAME,), also=networks.NAME),),
)
