"""The kinds of fault by name. Each draws a training and a moment, puts the fault in, and judges."""

from benchmarks._faults.damage import damage
from benchmarks._faults.disk import disk
from benchmarks._faults.kill import kill
from benchmarks._faults.lost import lost_process
from benchmarks._faults.nan import nan
from benchmarks._faults.rate import rate

KINDS = {
    "nan": nan,
    "rate": rate,
    "kill": kill,
    "disk": disk,
    "damage": damage,
    "lost": lost_process,
}
SHOWN = {
    "nan": "NaN in a batch",
    "rate": "learning rate far too large",
    "kill": "kill -9",
    "disk": "full disk",
    "damage": "file cut short or changed",
    "lost": "a process lost",
}
