"""What a report is made of: the page, its figures, and curves that are drawn twice."""

from energax.report._base.page import Figure as Figure
from energax.report._base.page import Page as Page
from energax.report._base.plot import COLOURS as COLOURS
from energax.report._base.plot import Panel as Panel
from energax.report._base.plot import Series as Series
from energax.report._base.plot import canvas as canvas
from energax.report._base.plot import coded as coded
from energax.report._base.plot import numbers as numbers
from energax.report._base.plot import picture as picture
from energax.report._base.plot import plotted as plotted
