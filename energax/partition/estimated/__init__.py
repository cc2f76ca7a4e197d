"""log Z estimated: annealed importance sampling from both ends, and what is built on tempering."""

from energax.partition.estimated.annealed import AIS as AIS
from energax.partition.estimated.annealed import Bridge as Bridge
from energax.partition.estimated.annealed import forward_log_weights as forward_log_weights
from energax.partition.estimated.tempering import SMC as SMC
from energax.partition.estimated.tempering import Tempering as Tempering
