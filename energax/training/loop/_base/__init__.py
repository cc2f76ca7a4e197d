"""A training step and what goes on around it: chunks of steps, devices, the record of a run, and
what preparing, running and judging hand on."""

from energax.training.loop._base.devices import Devices as Devices
from energax.training.loop._base.prepared import Checkpoints as Checkpoints
from energax.training.loop._base.prepared import Ended as Ended
from energax.training.loop._base.prepared import Keeping as Keeping
from energax.training.loop._base.prepared import Prepared as Prepared
from energax.training.loop._base.record import joined as joined
from energax.training.loop._base.record import records_of as records_of
from energax.training.loop._base.run import Moment as Moment
from energax.training.loop._base.run import Run as Run
from energax.training.loop._base.run import Trouble as Trouble
from energax.training.loop._base.spectral import bounded as bounded
from energax.training.loop._base.spectral import check_matrices as check_matrices
from energax.training.loop._base.spectral import within as within
from energax.training.loop._base.step import AWAY_STEPS as AWAY_STEPS
from energax.training.loop._base.step import IDLE_STEPS as IDLE_STEPS
from energax.training.loop._base.step import LEAST_ACCEPTANCE as LEAST_ACCEPTANCE
from energax.training.loop._base.step import Plan as Plan
from energax.training.loop._base.step import TrainState as TrainState
from energax.training.loop._base.step import advance as advance
from energax.training.loop._base.step import as_strong as as_strong
