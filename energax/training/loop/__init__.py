"""The one training loop."""

from energax.training.loop._base import check_matrices as check_matrices
from energax.training.loop.choose import fit as fit
from energax.training.loop.choose import resume as resume
from energax.training.loop.preparing import check_optimizer as check_optimizer
from energax.training.loop.preparing import check_recovery as check_recovery
from energax.training.loop.preparing import rows_a_window as rows_a_window
