"""Records of runs: what was run, where, and what came out."""

from ._damage import damage as damage
from ._damage import is_whole as is_whole
from ._damage import set_aside as set_aside
from ._environment import environment as environment
from ._errors import RunError as RunError
from ._files import require_writable as require_writable
from ._files import write_whole as write_whole
from ._flat import flat as flat
from ._flat import short_name as short_name
from ._listing import Listed as Listed
from ._listing import listing as listing
from ._lock import BusyError as BusyError
from ._lock import is_locked as is_locked
from ._lock import lock as lock
from ._read import ReadRun as ReadRun
from ._read import Records as Records
from ._read import read as read
from ._run import Run as Run
