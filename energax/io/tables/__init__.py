"""Rows in files, whole or a stretch at a time."""

from energax.io.tables._base import AbstractRows as AbstractRows
from energax.io.tables.files import WRITABLE as WRITABLE
from energax.io.tables.files import column_names as column_names
from energax.io.tables.files import read_data as read_data
from energax.io.tables.files import write_data as write_data
from energax.io.tables.rows import open_rows as open_rows
from energax.io.tables.views import a_few as a_few
from energax.io.tables.views import hold_out as hold_out
