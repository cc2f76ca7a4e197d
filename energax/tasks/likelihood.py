"""How likely is each row? log p(x) = f(x) − log Z with the error of log Z carried along."""

import numpy as np

from energax.energies._base import AbstractEnergy
from energax.partition.choose import log_z as estimate_log_z
from energax.results import LogZ, Scores
from energax.spaces import Point
from energax.tasks._base import log_density_rows


def score_samples(
    energy: AbstractEnergy, X: Point, *, key, log_z: LogZ | None = None, **options
) -> Scores:
    """log p(x) = f(x) − log Z for every row of `X`.

    **Arguments:** `X`: (rows, *event), or one point. `log_z`: an answer of `energax.log_z` to use
    again; by default it is estimated with `options` passed on (`precision=`, `max_seconds=`, ...).

    **Returns:** `Scores`: `log_prob` (rows,), `std_err` (rows,) the standard error of each row,
    `log_z_std_err` the error that all rows share. −inf for a row of density 0.
    """
    values, _ = log_density_rows(energy, X, "X")
    z = estimate_log_z(energy, key=key, **options) if log_z is None else log_z
    if log_z is not None and options:
        raise TypeError(f"log_z= is given, so {sorted(options)} would have no effect")
    with np.errstate(invalid="ignore"):
        log_prob = values - z.value
    return Scores(
        log_prob=log_prob,
        std_err=np.full(len(values), z.std_err),
        log_z_std_err=z.std_err,
        log_z=z,
        reliable=z.reliable,
        reasons=z.reasons,
    )
