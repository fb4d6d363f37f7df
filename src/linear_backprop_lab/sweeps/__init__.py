"""Sweeps: many runs, each made once, on this machine or on a cluster."""

from ._attempt import Outcome as Outcome
from ._attempt import attempt as attempt
from ._engine import Engine as Engine
from ._engine import EngineName as EngineName
from ._engine import choose_engine as choose_engine
from ._errors import EngineError as EngineError
from ._local import run_here as run_here
from ._local import run_in_processes as run_in_processes
from ._ray import run_on_ray as run_on_ray
from ._sweep import Sweep as Sweep
from ._torchrun import follow as follow
from ._torchrun import follows as follows
from ._torchrun import leading as leading
from ._workload import workload as workload
