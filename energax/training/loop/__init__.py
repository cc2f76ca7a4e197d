"""The one training loop."""

from energax.training.loop.fit import fit as fit
from energax.training.loop.fit import resume as resume
