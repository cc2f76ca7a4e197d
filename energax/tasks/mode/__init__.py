"""The most probable point of an energy: proven where that can be, searched for elsewhere."""

from energax.tasks.mode._base import Mode as Mode
from energax.tasks.mode.choose import mode as mode
