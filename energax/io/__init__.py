"""Files: data tables in and out, and trees of arrays saved without pickle."""

from energax.io._base import (
    DamagedFile,
    atomic_write,
    file_digest,
    is_alive,
    remove_leftovers,
    write_json,
)
from energax.io.alignment import PROTEIN, Alignment, read_alignment
from energax.io.archive import (
    FORMAT,
    Archive,
    UnknownTree,
    array_leaves,
    read_archive,
    read_info,
    remove_archive,
    write_archive,
)
from energax.io.tables import (
    WRITABLE,
    AbstractRows,
    a_few,
    column_names,
    hold_out,
    open_rows,
    read_data,
    write_data,
)

__all__ = [
    "FORMAT",
    "PROTEIN",
    "WRITABLE",
    "AbstractRows",
    "Alignment",
    "Archive",
    "DamagedFile",
    "UnknownTree",
    "a_few",
    "array_leaves",
    "atomic_write",
    "column_names",
    "file_digest",
    "hold_out",
    "is_alive",
    "open_rows",
    "read_alignment",
    "read_archive",
    "read_data",
    "read_info",
    "remove_archive",
    "remove_leftovers",
    "write_archive",
    "write_data",
    "write_json",
]
