"""The normaliser: log Z summed exactly where it can be, else estimated with error and verdict."""

from energax.partition.annealed import AIS as AIS
from energax.partition.choose import log_z as log_z
from energax.partition.exact import Enumeration as Enumeration
from energax.partition.quadrature import Quadrature as Quadrature
