"""From a data file to a training run: what `energax fit` and `energax resume` agree on."""

from energax.jobs.choose import CHECKPOINTS as CHECKPOINTS
from energax.jobs.choose import PROGRESS as PROGRESS
from energax.jobs.choose import Job as Job
from energax.jobs.choose import Settings as Settings
from energax.jobs.choose import as_points as as_points
from energax.jobs.choose import digest_of as digest_of
from energax.jobs.choose import held_out_rows as held_out_rows
from energax.jobs.choose import parse_space as parse_space
from energax.jobs.choose import prepare as prepare
from energax.jobs.choose import read_rows as read_rows
from energax.jobs.choose import space_name as space_name
from energax.jobs.choose import split_numbers as split_numbers
from energax.jobs.choose import split_rows as split_rows
from energax.jobs.models import build_model as build_model
from energax.jobs.models import parse_objective as parse_objective
