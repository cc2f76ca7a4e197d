"""Preparing: what `fit` was asked for, checked, and the run that it starts or goes on with."""

from energax.training.loop.preparing.asked import at_temperature as at_temperature
from energax.training.loop.preparing.asked import check_matched as check_matched
from energax.training.loop.preparing.asked import check_optimizer as check_optimizer
from energax.training.loop.preparing.asked import check_recovery as check_recovery
from energax.training.loop.preparing.asked import keeping_of as keeping_of
from energax.training.loop.preparing.choose import ask as ask
from energax.training.loop.preparing.choose import gather as gather
from energax.training.loop.preparing.choose import prepare as prepare
from energax.training.loop.preparing.windows import rows_a_window as rows_a_window
