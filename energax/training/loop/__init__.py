"""The one training loop."""

from energax.training.loop.choose import fit as fit
from energax.training.loop.choose import resume as resume
