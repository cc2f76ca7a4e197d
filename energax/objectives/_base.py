"""What an objective is: a loss whose gradient trains θ, with parameters and memory of its own."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from energax.energies._base import AbstractEnergy, AbstractOfLengths
from energax.spaces import AbstractSpace, Point

Metrics = dict[str, Float[Array, ""]]


class AbstractObjective(eqx.Module):
    """A loss over minibatches.

    `fit` differentiates `__call__` in θ (the trainable arrays of `energy`) and in Params, and hands
    Carry from step to step (chains, tunings): it survives parameter updates, so whatever it caches
    about an energy must be recomputed.
    """

    @abstractmethod
    def init(
        self, energy: AbstractEnergy, data: Point, *, key: Key[Array, ""]
    ) -> tuple[PyTree, Any]:
        """(Params, Carry): parameters trained beside θ, and the memory; None where there are none.

        **Arguments:** `data`: all training rows, (rows, *event), already validated.

        **Raises:** TypeError or ValueError if the energy or its space does not suit the objective.
        """

    @abstractmethod
    def __call__(
        self,
        energy: AbstractEnergy,
        params: PyTree,
        batch: Point,
        carry: Any,
        *,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, ""], Any, Metrics]:
        """(loss, Carry, Metrics) on one minibatch (batch, *event).

        Metrics always hold `energy_data` and, where the objective has samples, `energy_samples`:
        the two halves of the gradient.
        """

    def data_space(self, energy: AbstractEnergy) -> AbstractSpace:
        """Where the rows that it learns from live: the energy's space, but for hidden layers.

        **Raises:** TypeError for an `AbstractOfLengths` that it would take for one distribution.
        """
        if isinstance(energy, AbstractOfLengths) and not self.keeps_lengths:
            raise TypeError(
                f"{type(self).__name__} takes {type(energy).__name__}, a distribution for each "
                "length of its rows, for one of all: take PersistentCD(), ContrastiveDivergence() "
                "or MaximumLikelihood()"
            )
        return energy.space

    def evaluations_per_step(self, energy: AbstractEnergy, batch_size: int) -> float:
        """Energy evaluations (a gradient counts as one) of one call on `batch_size` rows."""
        return float(batch_size)

    @property
    def is_deterministic(self) -> bool:
        """Whether the loss is a function of the parameters and the rows: no chance, no memory."""
        return False

    @property
    def fits_moments(self) -> bool:
        """Whether of the rows it takes their mean energy alone, so that moments may stand in."""
        return False

    @property
    def keeps_lengths(self) -> bool:
        """Whether of an `AbstractOfLengths` it compares rows with points of their own lengths."""
        return False

    def rough_inverse_hessian(
        self, energy: AbstractEnergy, data: Point
    ) -> Callable[[PyTree], PyTree] | None:
        """A symmetric positive map on θ near the inverse of the loss's Hessian, that L-BFGS starts
        from; a module, of the data and of what `energy` does not train. None where none is known.
        """
        return None

    def l1_strengths(self, theta: PyTree) -> PyTree:
        """λ of the penalty λ|θ_i| in the loss, a tree like `theta`, so that `fit` can stop at 0.

        At 0 such a loss has a kink, where its gradient says nothing. None where there is no L1.
        """
        return None


class AbstractAddition(AbstractObjective):
    """An objective and a term of its own beside it; the rest of what `fit` asks is its answer."""

    objective: eqx.AbstractVar[AbstractObjective]

    def __check_init__(self):
        if not isinstance(self.objective, AbstractObjective):
            raise TypeError(
                f"{type(self).__name__}: expected an objective such as PseudoLikelihood() to add "
                f"to, got {type(self.objective).__name__}"
            )

    def data_space(self, energy):
        return self.objective.data_space(energy)

    def evaluations_per_step(self, energy, batch_size):
        return self.objective.evaluations_per_step(energy, batch_size)

    @property
    def is_deterministic(self):
        return self.objective.is_deterministic

    def l1_strengths(self, theta):
        return self.objective.l1_strengths(theta)


def energies_of(name: str, energies: Float[Array, " points"]) -> Metrics:
    """Mean and spread of energies as `energy_{name}` and `energy_{name}_sd`, both with gradients.

    That of the spread of equal energies is 0: that of the root alone is infinite there.
    """
    variance = jnp.var(energies)
    sd = jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
    mean = jnp.mean(energies)
    return {f"energy_{name}": mean, f"energy_{name}_sd": jnp.where(variance > 0, sd, variance)}


def energies_of_data(energies: Float[Array, " rows"]) -> Metrics:
    """What every objective reports of the energies of its rows: their mean and spread."""
    return energies_of("data", energies)


def flat_f(energy: AbstractEnergy, batch: Point) -> tuple[Any, Float[Array, "rows d"]]:
    """(f of a flat point, the rows flat)."""
    unravel = ravel_pytree(energy.space.example())[1]
    rows = jax.vmap(lambda x: ravel_pytree(x)[0])(jax.tree.map(jnp.asarray, batch))
    return (lambda v: energy.log_density(unravel(v))), rows


def as_numbers(value: Any) -> Any:
    """A number, an array or a dict of them as arrays of floats; None as it is."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {name: as_numbers(each) for name, each in value.items()}
    return jnp.asarray(value, float)


def check_whole(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """Raises ValueError unless all numbers of `value` are above 0 and finite; None is no number."""
    for leaf in jax.tree.leaves(value):
        if not bool(jnp.all((leaf > 0) & jnp.isfinite(leaf))):
            raise ValueError(f"{name}: expected numbers above 0, got {leaf}")


def spreads(data: Point) -> Any:
    """Standard deviation of every coordinate of rows, float64 of the shape of a point; that of a
    coordinate that never changes is the others' root mean square, or 1."""
    sd = jax.tree.map(lambda rows: np.std(np.asarray(rows, np.float64), axis=0), data)
    known = np.concatenate([leaf[leaf > 0].reshape(-1) for leaf in jax.tree.leaves(sd)])
    typical = np.sqrt(np.mean(known**2)) if len(known) else 1.0
    return jax.tree.map(lambda leaf: np.where(leaf > 0, leaf, typical), sd)


def like_a_point(name: str, value: Any, shape: Any) -> Any:
    """`value`, a number or an array (on a `Record` a number or a dict of these), if it has the
    shape of a point; else a ValueError that calls it `name`."""
    if isinstance(shape, dict) and isinstance(value, dict):
        if set(value) != set(shape):
            raise ValueError(f"{name}: expected the parts {sorted(shape)}, got {sorted(value)}")
        return {k: like_a_point(f"{name}[{k!r}]", value[k], shape[k]) for k in shape}
    if isinstance(value, dict) or (jnp.ndim(value) > 0 and jnp.shape(value) != shape):
        got = f"parts {sorted(value)}" if isinstance(value, dict) else f"shape {jnp.shape(value)}"
        raise ValueError(f"{name}: expected a number or the shape of a point, {shape}, got {got}")
    return value


def steepest_slope(
    at: Float[Array, "..."], slope: Float[Array, "..."], strength: Float[Array, "..."]
) -> Float[Array, "..."]:
    """The slope of L + λ|θ|, at θ = 0 on the side to which it falls, or 0 if it rises on both.

    Andrew & Gao 2007, eq. 4. `slope` has λ sign(θ) in it, which is nothing at 0.
    """
    at_zero = jnp.sign(slope) * jnp.maximum(jnp.abs(slope) - strength, 0.0)
    return jnp.where(at == 0, at_zero, slope)


def within_orthant(
    new: Float[Array, "..."],
    old: Float[Array, "..."],
    steepest: Float[Array, "..."],
    strength: Float[Array, "..."],
) -> Float[Array, "..."]:
    """`new` with 0 where λ > 0 and it lies on the other side of 0 than `old`, or, from 0, than the
    side to which the loss falls (Andrew & Gao 2007, eq. 5 and 6)."""
    side = jnp.where(old == 0, -jnp.sign(steepest), jnp.sign(old))
    return jnp.where((strength > 0) & (new * side <= 0), 0.0, new)
