"""The studies: what is run, with which settings, and what the report says of it; a folder each."""

from ._gather import gather as gather
from ._job import Job as Job
from ._job import OnStep as OnStep
from ._only import Only as Only
from ._only import UnknownSettingError as UnknownSettingError
from ._only import check_settings as check_settings
from ._only import runs_with as runs_with
from ._place import Place as Place
from ._registry import EXPERIMENTS as EXPERIMENTS
from ._registry import UnknownExperimentError as UnknownExperimentError
from ._registry import awaited as awaited
from ._registry import experiment_names as experiment_names
from ._registry import experiments_named as experiments_named
from ._registry import job_for as job_for
from ._registry import jobs_of as jobs_of
from ._registry import stages_of as stages_of
from ._scale import Scale as Scale
from ._study import Experiment as Experiment
from ._study import Plan as Plan
