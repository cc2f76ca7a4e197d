"""Annealed importance sampling, forward and in reverse."""

from energax.partition.annealed.method import AIS as AIS
from energax.partition.annealed.method import forward_log_weights as forward_log_weights
