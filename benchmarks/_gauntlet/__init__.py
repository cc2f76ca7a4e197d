"""Energies of known log Z, and some that have none, for `benchmarks.gauntlet`."""

from benchmarks._gauntlet import binary as binary
from benchmarks._gauntlet import bounded as bounded
from benchmarks._gauntlet import categorical as categorical
from benchmarks._gauntlet import counts as counts
from benchmarks._gauntlet import curved as curved
from benchmarks._gauntlet import divergent as divergent
from benchmarks._gauntlet import multimodal as multimodal
from benchmarks._gauntlet import normal as normal
from benchmarks._gauntlet import records as records
from benchmarks._gauntlet import skewed as skewed
from benchmarks._gauntlet import spins as spins
from benchmarks._gauntlet._base import Target as Target
from benchmarks._gauntlet._base import groups as groups
from benchmarks._gauntlet._base import in_turns as in_turns
from benchmarks._gauntlet._base import make as make
from benchmarks._gauntlet._base import names as names
