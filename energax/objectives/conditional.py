"""Learning p(y | x) alone: what y is given the rest, without a model of x."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractObjective, energies_of_data
from energax.spaces import Point, Record

MAX_STATES = 2**12


class ConditionalLikelihood(AbstractObjective):
    """The mean of −log p(y | x), exact, y one part of a record: f(x, y) is held against f(x, y')
    for every y'.

    Larochelle & Bengio 2008, "Classification using discriminative restricted Boltzmann machines",
    eq. 2 and 5; for any f it is what a softmax classifier minimises. Population target: the
    parameters whose p(y | x) is nearest to the truth's, averaged over x; p(x) is not learned. A
    step costs as many energies a row as y has values.

    **Arguments:** `target`: the name of y in the record.
    """

    target: str = eqx.field(static=True, default="y")

    is_deterministic = property(lambda self: True)

    def init(self, energy, data, *, key):
        """(None, None).

        **Raises:** TypeError or ValueError where `target` is no part of few states.
        """
        check_target(energy, self.target)
        return None, None

    def __call__(self, energy, params, batch, carry, *, key):
        f = conditional_log_densities(energy, batch, self.target)
        own = jax.vmap(energy.log_density)(batch)
        log_z = jax.nn.logsumexp(f, axis=1)
        weight = jnp.exp(f - log_z[:, None])
        metrics = {
            **energies_of_data(-own),
            "energy_samples": -jnp.mean(jnp.sum(jnp.where(weight > 0, weight * f, 0.0), axis=1)),
        }
        return jnp.mean(log_z - own), None, metrics

    def evaluations_per_step(self, energy, batch_size):
        num_states = check_target(energy, self.target)
        return float(batch_size * (num_states + 1))


def check_target(energy: AbstractEnergy, target: str) -> int:
    """How many values y has.

    **Raises:** TypeError for an energy that is not on a record with a part of this name, and where
    that part has infinitely many values; ValueError where it has more than 4096.
    """
    space = energy.space
    if not isinstance(space, Record) or target not in space.parts or len(space.parts) < 2:
        raise TypeError(
            f"p({target} | the rest) needs an energy on a Record of which {target!r} is one part, "
            f"got {space}; name it by target="
        )
    num_states = space.parts[target].num_states
    if num_states is None:
        raise TypeError(f"{target!r} has infinitely many values: {space.parts[target]}")
    if num_states > MAX_STATES:
        raise ValueError(
            f"{target!r} has {num_states:,} values, more than {MAX_STATES:,} to hold against each "
            "other: sample them by energy.condition(...)"
        )
    return num_states


def conditional_log_densities(
    energy: AbstractEnergy, rows: Point, target: str
) -> Float[Array, "rows states"]:
    """f(x, y) of each row's x with every value of y, in the order of the part's states."""
    states = energy.space.parts[target].enumerate()  # type: ignore[attr-defined]

    def row(x):
        return jax.vmap(lambda y: energy.log_density({**x, target: y}))(states)

    return jax.vmap(row)({name: part for name, part in rows.items() if name != target})
