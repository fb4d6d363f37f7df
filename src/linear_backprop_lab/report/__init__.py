"""The report: from records to sections, from sections to a page; nothing here runs an experiment."""

from ._bnn import bnn as bnn
from ._claims import Claim as Claim
from ._collapse import collapse as collapse
from ._figure1 import figure1 as figure1
from ._figure2 import figure2 as figure2
from ._figure3 import figure3_left as figure3_left
from ._figure3 import figure3_right as figure3_right
from ._figure4 import figure4 as figure4
from ._gather import Chapter as Chapter
from ._gather import Report as Report
from ._gather import ReportError as ReportError
from ._gather import gather as gather
from ._images import images as images
from ._open_settings import open_settings as open_settings
from ._paper_rate import paper_rate as paper_rate
from ._render import check_report_path as check_report_path
from ._render import write_report as write_report
from ._section import Figure as Figure
from ._section import Section as Section
from ._section import Table as Table
