"""The experiments: what is run, and with which settings."""

from ._job import Job as Job
from ._job import OnStep as OnStep
from ._registry import EXPERIMENTS as EXPERIMENTS
from ._registry import Experiment as Experiment
from ._registry import UnknownExperimentError as UnknownExperimentError
from ._registry import experiment_names as experiment_names
from ._registry import experiments_named as experiments_named
from ._registry import job_for as job_for
from ._registry import jobs_of as jobs_of
from ._scale import Scale as Scale
