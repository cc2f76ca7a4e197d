"""Learning p(y | x), alone or together with p(x): what y is given the rest."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.energies._base import AbstractEnergy
from energax.objectives._base import AbstractAddition, AbstractObjective, energies_of_data
from energax.spaces import AbstractSpace, Point, Record

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


class Marginal(AbstractEnergy):
    """−log Σ_y exp(f(x, y)) as an energy of x, y one part of a record, of few values."""

    energy: AbstractEnergy
    target: str = eqx.field(static=True)

    @property
    def space(self) -> AbstractSpace:
        parts = self.energy.space.parts  # type: ignore[attr-defined]
        return Record(**{name: part for name, part in parts.items() if name != self.target})

    def __call__(self, x):
        rows = jax.tree.map(lambda a: a[None], x)
        return -jax.nn.logsumexp(conditional_log_densities(self.energy, rows, self.target)[0])


class JointClassifier(AbstractAddition):
    """JEM: −log p(y | x), exact, plus an objective of p(x) = Σ_y exp(f(x, y)) / Z.

    Grathwohl, Wang, Jacobsen, Duvenaud, Norouzi & Swersky 2020, "Your classifier is secretly an
    energy based model and you should treat it like one", eq. 6 and 7: log p(x, y) = log p(y | x) +
    log p(x), where only the second needs chains, and these move x alone. Population target: that of
    maximum likelihood of p(x, y) with `PersistentCD` and `weight` 1; a larger weight gives p(y | x)
    precedence. A step costs as many energies a row as y has values, once more and once a step for
    the chains of p(x).

    **Arguments:** `objective`: of p(x), such as `PersistentCD(num_steps=20)` or `ReplayCD()`.
    `target`: the name of y in the record. `weight`: of −log p(y | x).

    **Raises:** TypeError or ValueError, from `init`, where `target` is no part of few values.
    """

    objective: AbstractObjective
    target: str = eqx.field(static=True, default="y")
    weight: Float[Array, ""] = eqx.field(default=1.0, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        if not 0 <= float(self.weight) < float("inf"):
            raise ValueError(f"weight: expected a number from 0, got {float(self.weight):g}")

    def init(self, energy, data, *, key):
        """(Params, Carry) of the objective of p(x)."""
        check_target(energy, self.target)
        return self.objective.init(Marginal(energy, self.target), self._seen(data), key=key)

    def __call__(self, energy, params, batch, carry, *, key):
        marginal = Marginal(energy, self.target)
        loss, carry, metrics = self.objective(marginal, params, self._seen(batch), carry, key=key)
        f = conditional_log_densities(energy, batch, self.target)
        own = jax.vmap(energy.log_density)(batch)
        log_p = own - jax.nn.logsumexp(f, axis=1)
        right = jnp.mean(own >= jnp.max(f, axis=1))
        metrics |= {"log_conditional": jnp.mean(log_p), "right": right}
        return loss - self.weight * jnp.mean(log_p), carry, metrics

    def _seen(self, rows: Point) -> Point:
        return {name: part for name, part in rows.items() if name != self.target}

    def evaluations_per_step(self, energy, batch_size):
        num_states = check_target(energy, self.target)
        own = self.objective.evaluations_per_step(Marginal(energy, self.target), batch_size)
        return num_states * own + batch_size * (num_states + 1)

    def data_space(self, energy):
        return energy.space

    def l1_strengths(self, theta):
        return None


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
