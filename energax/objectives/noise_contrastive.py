"""Noise-contrastive estimation: the model learns to tell the data from noise of known density."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from energax.energies._base import (
    AbstractNormalised,
    batched,
    partition_trainable,
    softplus,
    without_gradient,
)
from energax.energies.reference import BoxReference, fitted_base
from energax.objectives._base import AbstractObjective, check_whole, energies_of_data
from energax.spaces import AbstractSpace, num_rows

_STARTS = 1000
"""Points of noise that the first guess of log Z is from."""
_UNIT = 10.0
"""Nats of c to one of the number that is trained: the steps of Adam are as large for every number,
and log Z moves further than a weight."""


class NoiseContrastive(AbstractObjective):
    """NCE: the mean over rows of −log σ(G(x)) − Σ_j log σ(−G(y_j)), G = f − c − log q − log ν.

    Gutmann & Hyvärinen 2012, "Noise-contrastive estimation of unnormalized statistical models",
    eq. 8: ν points y of noise q for each row, and c a parameter of its own, which comes to log Z.
    Population target: the truth and its log Z where the family holds it. Errors are large where q
    and the data hardly overlap, which in many dimensions they do not. The metrics of a step hold c
    as `log_z`, which has no error bar (`energax.log_z` gives one), and the share of points told
    apart, `told_apart`: near 1 nothing more can be learned.

    Spaces: all that have a base (`q` is fitted to the data where none is given). A row costs 1 + ν
    evaluations of f and no gradient in x.

    **Arguments:** `noise` q: a normalised energy on the same space; None fits the base of the space
    to the data. `num_noise` ν: points of noise a row. `learn_noise`: the `noise`
    that is given follows the data too, by maximum likelihood in its own parameters.

    **Raises:** ValueError unless `num_noise` is a whole number from 1, or for noise to be learned
    that is not given; TypeError for a `noise` that is not normalised.
    """

    noise: Any = None
    num_noise: int = eqx.field(static=True, default=1)
    learn_noise: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_whole("num_noise", self.num_noise)
        if self.noise is not None and not isinstance(self.noise, AbstractNormalised):
            raise TypeError(
                "NoiseContrastive: noise has to be drawn from and its density known: expected a "
                f"normalised energy, got {type(self.noise).__name__}"
            )
        if self.learn_noise and self.noise is None:
            raise ValueError(
                "NoiseContrastive: learn_noise=True needs the noise= to be learned; without one q "
                "is the base of the space, fitted to the data already"
            )

    def init(self, energy, data, *, key):
        """((c/10, trained arrays of q or None), q without them).

        c starts at log (1/n) Σ exp(f(y_j)) / q(y_j) over n = 1000 points of noise.

        **Raises:** TypeError for a space that has no base, a noise on another space, or noise to be
        learned whose parameters are not free.
        """
        noise = fitted_base(energy.space, data) if self.noise is None else self.noise
        if self.noise is not None and not _same(noise.space, energy.space):
            raise TypeError(
                f"NoiseContrastive: the noise lives on {noise.space}, the energy on {energy.space}"
            )
        if self.learn_noise and _holds_a_box(noise):
            raise TypeError(
                "NoiseContrastive: the share of uniform noise in a BoxReference cannot be learned, "
                "as it has to stay within 0 to 1; leave learn_noise= out, or give noise with free "
                "parameters"
            )
        y = noise.draw(_STARTS, key=key)
        ratio = batched(energy, y) - batched(noise, y) + noise.log_z
        c = jax.nn.logsumexp(ratio) - math.log(_STARTS)
        c = jnp.where(jnp.isfinite(c), c, 0.0) / _UNIT
        if not self.learn_noise:
            return (c, None), noise
        trained, fixed = partition_trainable(noise)
        return (c, trained), fixed

    def __call__(self, energy, params, batch, carry, *, key):
        tens, trained = params
        c = _UNIT * tens
        noise: Any = carry if trained is None else eqx.combine(trained, carry)
        still = without_gradient(noise)
        y = still.draw(num_rows(batch) * self.num_noise, key=key)
        energies = -batched(energy, batch)

        def surplus(f, x):
            return f - c - (batched(still, x) - still.log_z) - math.log(self.num_noise)

        data = softplus(-surplus(-energies, batch))
        other = softplus(surplus(batched(energy, y), y))
        loss = jnp.mean(data) + self.num_noise * jnp.mean(other)
        if trained is not None:
            loss = loss - jnp.mean(batched(noise, batch)) + noise.log_z
        right = (jnp.mean(data < math.log(2)) + self.num_noise * jnp.mean(other < math.log(2))) / (
            1 + self.num_noise
        )
        metrics = {
            **energies_of_data(energies),
            "log_z": c,
            "told_apart": right,
        }
        return loss, carry, metrics

    def evaluations_per_step(self, energy, batch_size):
        return float(batch_size * (1 + self.num_noise))


def _same(a: AbstractSpace, b: AbstractSpace) -> bool:
    """a == b, by NumPy: within a trace `==` of spaces with arrays has no truth value."""
    same = jax.tree.structure(a) == jax.tree.structure(b)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True) if same else ()
    return same and all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def _holds_a_box(noise: AbstractNormalised) -> bool:
    parts = jax.tree.leaves(noise, is_leaf=lambda part: isinstance(part, BoxReference))
    return any(isinstance(part, BoxReference) for part in parts)
