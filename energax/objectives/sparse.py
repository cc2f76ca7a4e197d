"""Hidden units that are rarely on, beside any objective."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies import AbstractRBM, BernoulliUnits
from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractAddition, AbstractObjective


class SparseHidden(AbstractAddition):
    """loss + strength · Σ_j KL(target ‖ q_j), q_j the mean of p(h_j = 1 | x) over the minibatch.

    Lee, Ekanadham & Ng 2008, "Sparse deep belief net model for visual area V2"; as a cross-entropy
    Hinton 2012, section 11. Population target: not that of `objective` but one whose hidden units
    are on in about a share `target` of the rows: each stands for fewer of them, and none for all or
    for no row. It costs the hidden means of the minibatch.

    **Arguments:** `objective`: what to add to. `target`: between 0 and 1. `strength`: nats a unit.

    **Raises:** TypeError unless `objective` is one; ValueError for numbers out of range.
    """

    objective: AbstractObjective
    target: Float[Array, ""] = eqx.field(default=0.1, converter=lambda v: jnp.asarray(v, float))
    strength: Float[Array, ""] = eqx.field(default=0.01, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        if not 0 < float(self.target) < 1:
            raise ValueError(
                f"SparseHidden: expected target between 0 and 1, got {float(self.target):g}"
            )
        if not 0 <= float(self.strength) < float("inf"):
            raise ValueError(
                f"SparseHidden: expected strength from 0, got {float(self.strength):g}"
            )

    def init(self, energy, data, *, key):
        """(Params, Carry) of `objective`.

        **Raises:** TypeError unless the energy is an RBM whose hidden units are on or off.
        """
        _check_hidden(energy)
        return self.objective.init(energy, data, key=key)

    def __call__(self, energy, params, batch, carry, *, key):
        loss, carry, metrics = self.objective(energy, params, batch, carry, key=key)
        rbm: Any = energy
        on = jnp.mean(rbm.hidden_mean(batch), axis=0)
        q, p = jnp.clip(on, 1e-6, 1 - 1e-6), self.target
        divergence = p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))
        penalty = self.strength * jnp.sum(divergence)
        return loss + penalty, carry, metrics | {"sparsity": penalty, "hidden_on": jnp.mean(on)}

    def evaluations_per_step(self, energy, batch_size):
        return batch_size + super().evaluations_per_step(energy, batch_size)


def _check_hidden(energy: AbstractEnergy) -> None:
    if not (isinstance(energy, AbstractRBM) and isinstance(energy.hidden, BernoulliUnits)):
        raise TypeError(
            "SparseHidden asks how often hidden units are on: it trains RBMs with BernoulliUnits, "
            f"got {type(energy).__name__}"
        )
