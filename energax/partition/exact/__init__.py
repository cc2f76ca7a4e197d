"""log Z without sampling error: sums, closed forms, and products of parts that have one."""

from energax.partition.exact.choose import EXACT as EXACT
from energax.partition.exact.choose import IndependentParts as IndependentParts
from energax.partition.exact.choose import exact_method as exact_method
from energax.partition.exact.choose import refusals as refusals
from energax.partition.exact.closed_form import ClosedForm as ClosedForm
from energax.partition.exact.elimination import Elimination as Elimination
from energax.partition.exact.elimination import TransferMatrix as TransferMatrix
from energax.partition.exact.kaufman import Kaufman as Kaufman
from energax.partition.exact.sums import Enumeration as Enumeration
from energax.partition.exact.sums import Known as Known
from energax.partition.exact.sums import SummedSide as SummedSide
