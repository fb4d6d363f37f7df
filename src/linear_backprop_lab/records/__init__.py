"""Records of runs: what was run, where, and what came out."""

from ._environment import environment as environment
from ._run import Run as Run
from ._run import RunError as RunError
from ._run import runs_below as runs_below
