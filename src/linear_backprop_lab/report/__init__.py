"""The report: what a section is, how its figures are drawn, and the page; it knows no study, and runs nothing."""

from ._claims import Claim as Claim
from ._claims import Verdict as Verdict
from ._claims import all_or_some as all_or_some
from ._claims import by_direction as by_direction
from ._claims import by_share as by_share
from ._render import check_report_path as check_report_path
from ._render import write_report as write_report
from ._report import Chapter as Chapter
from ._report import Report as Report
from ._report import ReportError as ReportError
from ._section import Figure as Figure
from ._section import Section as Section
from ._section import Table as Table
