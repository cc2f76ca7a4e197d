"""Words and pictures: one self-contained HTML page of an answer or a whole run."""

from energax.report import figures as figures
from energax.report._base import Figure as Figure
from energax.report._base import Page as Page
from energax.report.choose import LiveReport as LiveReport
from energax.report.choose import unusual_rows as unusual_rows
from energax.report.choose import watch as watch
from energax.report.choose import write_run_report as write_run_report
