"""The normaliser: log Z summed exactly where it can be, else estimated with error and verdict."""

from energax.partition.choose import log_z as log_z
from energax.partition.choose import log_z_by_length as log_z_by_length
from energax.partition.estimated import AIS as AIS
from energax.partition.estimated import Bridge as Bridge
from energax.partition.exact import ClosedForm as ClosedForm
from energax.partition.exact import Elimination as Elimination
from energax.partition.exact import Enumeration as Enumeration
from energax.partition.exact import IndependentParts as IndependentParts
from energax.partition.exact import Kaufman as Kaufman
from energax.partition.exact import Known as Known
from energax.partition.exact import SummedSide as SummedSide
from energax.partition.exact import TransferMatrix as TransferMatrix
from energax.partition.quadrature import Quadrature as Quadrature
