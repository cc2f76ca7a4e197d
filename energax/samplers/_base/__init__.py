"""What a sampler is, the one loop that runs every sampler, and what they share.

A sampler moves an ENSEMBLE of chains, `x: (num_chains, *event)`, under one key: random numbers are
drawn in bulk and the chains adapt together in warm-up.
"""

from energax.samplers._base.devices import apart as apart
from energax.samplers._base.devices import by_one as by_one
from energax.samplers._base.devices import in_use as in_use
from energax.samplers._base.devices import mesh_for as mesh_for
from energax.samplers._base.devices import of_shares as of_shares
from energax.samplers._base.devices import shared_out as shared_out
from energax.samplers._base.devices import together as together
from energax.samplers._base.loop import run as run
from energax.samplers._base.loop import run_fixed as run_fixed
from energax.samplers._base.loop import started as started
from energax.samplers._base.sampler import ENERGY_JUMP as ENERGY_JUMP
from energax.samplers._base.sampler import AbstractPopulationMethod as AbstractPopulationMethod
from energax.samplers._base.sampler import AbstractSampler as AbstractSampler
from energax.samplers._base.sampler import Info as Info
from energax.samplers._base.sampler import State as State
from energax.samplers._base.sampler import Trace as Trace
from energax.samplers._base.steps import accepted as accepted
from energax.samplers._base.steps import all_finite as all_finite
from energax.samplers._base.steps import as_rows as as_rows
from energax.samplers._base.steps import choose as choose
from energax.samplers._base.steps import column as column
from energax.samplers._base.steps import evaluate as evaluate
from energax.samplers._base.steps import from_rows as from_rows
from energax.samplers._base.steps import is_real as is_real
from energax.samplers._base.steps import metropolis_probability as metropolis_probability
from energax.samplers._base.steps import standard_normal as standard_normal
from energax.samplers._base.steps import start_on_real as start_on_real
from energax.samplers._base.tuning import DualAveraging as DualAveraging
from energax.samplers._base.tuning import EnsembleMoments as EnsembleMoments
from energax.samplers._base.tuning import Metric as Metric
