"""Whether draws and weights can be trusted. Pure NumPy in float64."""

from energax.diagnostics.chains import Summary as Summary
from energax.diagnostics.chains import ess_bulk as ess_bulk
from energax.diagnostics.chains import ess_mean as ess_mean
from energax.diagnostics.chains import ess_sd as ess_sd
from energax.diagnostics.chains import ess_tail as ess_tail
from energax.diagnostics.chains import is_constant as is_constant
from energax.diagnostics.chains import mcse_mean as mcse_mean
from energax.diagnostics.chains import mcse_sd as mcse_sd
from energax.diagnostics.chains import nested_rhat as nested_rhat
from energax.diagnostics.chains import rhat as rhat
from energax.diagnostics.chains import rhat_limit as rhat_limit
from energax.diagnostics.chains import summarise as summarise
from energax.diagnostics.goodness import chi_square as chi_square
from energax.diagnostics.goodness import ks_one_sample as ks_one_sample
from energax.diagnostics.weights import pareto_k as pareto_k
from energax.diagnostics.weights import weights_ess as weights_ess
