"""Energies that say with how much noise on their points are."""

import equinox as eqx

from energax.energies._base import AbstractEnergy, AbstractSmoothed
from energax.spaces import Real


class Smoothed(AbstractSmoothed):
    """`inner`, said to be the energy of data with noise of sd σ on: p_inner = p_data ∗ N(0, σ²).

    E is that of `inner`, any energy on `Real`. Denoising score matching (Vincent 2011) then trains
    it at this σ, and `energax.denoise` takes noise of this sd off by Tweedie's formula.

    **Arguments:** `sigma` σ: a number, in the units of x.

    **Raises:** TypeError for an energy on another space than `Real`, ValueError for a σ that is not
    positive.
    """

    inner: AbstractEnergy
    sigma: float = eqx.field(static=True)

    def __init__(self, inner: AbstractEnergy, sigma: float):
        if not isinstance(inner, AbstractEnergy) or not isinstance(inner.space, Real):
            got = f"one on {inner.space}" if isinstance(inner, AbstractEnergy) else repr(inner)
            raise TypeError(f"Smoothed: expected an energy on Real(shape), got {got}")
        self.inner = inner
        self.sigma = float(sigma)

    @property
    def space(self):  # type: ignore[override]
        return self.inner.space

    def __call__(self, x):
        return self.inner(x)

    def with_space(self, space):
        return Smoothed(self.inner.with_space(space), self.sigma)
