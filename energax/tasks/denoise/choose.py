"""`denoise`: noise of a stated kind taken off every row."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from energax.energies._base import AbstractEnergy, AbstractSmoothed, check_scalar
from energax.random import as_key
from energax.spaces import AbstractArraySpace, Point
from energax.tasks.denoise._base import AbstractNoise, Denoised, rows_of
from energax.tasks.denoise.chains import by_chains
from energax.tasks.denoise.noise import GaussianNoise
from energax.tasks.denoise.tweedie import by_tweedie

METHODS = "auto", "sampling", "tweedie"


def denoise(
    energy: AbstractEnergy,
    Y: Point,
    noise: AbstractNoise,
    *,
    key: Any,
    method: str = "auto",
) -> Denoised:
    """Cleans rows: posterior mean, standard deviation, best single value and mode of p(x | y).

    - "sampling": draws from p(x | y) ∝ exp(f(x)) p(y | x), of any noise. f is taken as the
      log-density of clean points.
    - "tweedie": f is taken as the log-density of *noisy* points, as denoising score matching with
      σ = the noise's sd trains it; then mean = y + σ²∇f(y) and variance = σ²(1 + σ²∂ᵢ²f(y)), for
      `GaussianNoise` alone. No chains: images of any size take seconds.
    - "auto": Tweedie's formula where the energy says that its points have noise of just this sd
      (`energies.Smoothed`, `energies.GradientStepDenoiser`), else sampling.

    **Arguments:** `Y`: noisy rows (rows, *event), or one point. `noise`: `BitFlip`,
    `GaussianNoise`, `SaltAndPepper`, `PoissonNoise`, `Mask` or `Blur`.

    **Returns:** `Denoised`; `x` is the cleaned data, the minimiser of expected squared error (real
    values) or of wrong sites (two values). Unreliable rows are named in `reliable_rows`.

    **Raises:** TypeError if the noise does not fit the space; ValueError for bad rows, or a method
    that does not apply.
    """
    check_scalar(energy)
    space = energy.space
    if not isinstance(noise, AbstractNoise):
        raise TypeError(
            f"noise: expected a kind such as BitFlip(rate) or GaussianNoise(sd), got {noise!r}"
        )
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    noise.check(space)
    assert isinstance(space, AbstractArraySpace)
    refusal = _no_tweedie(energy, noise)
    rows = rows_of(noise, Y, space)
    if method == "tweedie" or (
        method == "auto" and isinstance(energy, AbstractSmoothed) and refusal is None
    ):
        if refusal is not None:
            raise ValueError(f"method='tweedie' does not apply: {refusal}")
        assert isinstance(noise, GaussianNoise)
        return by_tweedie(energy, rows, jnp.asarray(noise.sd, rows.dtype), key=as_key(key))
    return by_chains(energy, rows, noise, key=as_key(key))


def _no_tweedie(energy: AbstractEnergy, noise: AbstractNoise) -> str | None:
    """Why Tweedie's formula says nothing here; None where it may."""
    if not isinstance(noise, GaussianNoise):
        return f"it is for GaussianNoise, got {type(noise).__name__}; take method='sampling'"
    if isinstance(energy, AbstractSmoothed) and not np.isclose(noise.sd, energy.sigma, rtol=1e-3):
        return (
            f"the energy is of points with noise of sd {energy.sigma:g}, these have "
            f"{float(noise.sd):g}; train one with sigma={float(noise.sd):g}, or take "
            "method='sampling'"
        )
    return None
