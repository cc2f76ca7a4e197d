"""Where one data point lives.

A space knows the shape and dtype that an energy sees, checks data, proposes symmetric random moves
for Metropolis, and lists its states when they are finitely many. A log Z is relative to counting
measure on discrete spaces and to Lebesgue measure on continuous ones.
"""

from energax.spaces._base import AbstractArraySpace as AbstractArraySpace
from energax.spaces._base import AbstractSpace as AbstractSpace
from energax.spaces._base import Point as Point
from energax.spaces._base import flatten_points as flatten_points
from energax.spaces._base import num_rows as num_rows
from energax.spaces.continuous import Box as Box
from energax.spaces.continuous import Real as Real
from energax.spaces.discrete import Binary as Binary
from energax.spaces.discrete import Categorical as Categorical
from energax.spaces.discrete import Count as Count
from energax.spaces.discrete import Ordinal as Ordinal
from energax.spaces.discrete import Spin as Spin
from energax.spaces.discrete import few_valued as few_valued
from energax.spaces.discrete import with_site_moved as with_site_moved
from energax.spaces.record import Record as Record
