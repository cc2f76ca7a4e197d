"""Penalties on the size of an energy's parameters and of its values, beside any objective."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from energax.energies._base import partition_trainable, total
from energax.objectives._base import AbstractAddition, AbstractObjective

_WEIGHTS = "weight", "weights", "coupling", "couplings"
"""What `where=None` finds: how the library's energies call what joins units to one another."""


class Penalised(AbstractAddition):
    """loss + l1 · Σ|θ_i| + ½ · l2 · Σθ_i² over the chosen parameters.

    Tibshirani 1996, eq. 1 (L1); Hoerl & Kennard 1970 (L2). Population target: for any fixed
    strength not that of `objective` but one drawn towards 0. The loss is a mean over rows: with N
    rows of a likelihood it is the posterior's mode under a Laplace prior of rate N·l1, a normal
    prior of precision N·l2.

    With L1 `fit` sets parameters to exactly 0: the gradient is the steepest slope on either side of
    0 and a step ends where it would change a sign (Andrew & Gao 2007, eq. 4 to 6). With full
    batches (optimizer="lbfgs", or batch_size= the rows) what the minimum has at 0 ends there; the
    noise of minibatches leaves most of it a little off. It costs nothing beside `objective`.

    **Arguments:** `l1`, `l2`: strengths from 0, per parameter and row, in nats. `where`: names of
    the fields (or keys of a dict) whose arrays are penalised, such as ("weight",); None takes
    weights and couplings, and no biases or fields.

    **Raises:** TypeError unless `objective` is one; ValueError for a negative strength.
    """

    objective: AbstractObjective
    l1: Float[Array, ""] = eqx.field(default=0.0, converter=lambda v: jnp.asarray(v, float))
    l2: Float[Array, ""] = eqx.field(default=0.0, converter=lambda v: jnp.asarray(v, float))
    where: tuple[str, ...] | None = eqx.field(
        static=True, default=None, converter=lambda w: (w,) if isinstance(w, str) else w and (*w,)
    )

    def __check_init__(self):
        for name, value in (("l1", self.l1), ("l2", self.l2)):
            if not 0 <= float(value) < float("inf"):
                raise ValueError(f"Penalised: expected {name} from 0, got {float(value):g}")

    @property
    def fits_moments(self):
        return self.objective.fits_moments

    def init(self, energy, data, *, key):
        """(Params, Carry) of `objective`.

        **Raises:** ValueError if the energy has no trained array of such a name.
        """
        theta = partition_trainable(energy)[0]
        if not jax.tree.leaves(self._chosen(theta)):
            places = jax.tree_util.tree_flatten_with_path(theta)[0]
            found = ", ".join(jax.tree_util.keystr(place) for place, _ in places)
            raise ValueError(
                f"Penalised: {type(energy).__name__} trains no array called "
                f"{' or '.join(self.where or _WEIGHTS)}; name some of {found} by where="
            )
        return self.objective.init(energy, data, key=key)

    def __call__(self, energy, params, batch, carry, *, key):
        loss, carry, metrics = self.objective(energy, params, batch, carry, key=key)
        arrays = jax.tree.leaves(self._chosen(partition_trainable(energy)[0]))
        # |a| as a · sign a, whose gradient at 0 is 0: that of jnp.abs is 1 there.
        size = sum(total(a * jax.lax.stop_gradient(jnp.sign(a))) for a in arrays)
        square = sum(total(a * a) for a in arrays)
        penalty = self.l1 * size + self.l2 * square / 2
        return loss + penalty, carry, metrics | {"penalty": penalty}

    def rough_inverse_hessian(self, energy, data):
        if float(self.l1) > 0:  # across a kink curvature says nothing
            return None
        return self.objective.rough_inverse_hessian(energy, data)

    def l1_strengths(self, theta):
        inner = self.objective.l1_strengths(theta)
        own = jax.tree.map(
            lambda a, chosen: jnp.full_like(a, self.l1 if chosen else 0.0),
            theta,
            self._is_chosen(theta),
        )
        return own if inner is None else jax.tree.map(jnp.add, own, inner)

    def _is_chosen(self, theta: PyTree) -> PyTree:
        names = _WEIGHTS if self.where is None else self.where

        def is_named(place: Any, _) -> bool:
            steps = (getattr(step, "name", getattr(step, "key", None)) for step in place)
            return any(step in names for step in steps)

        return jax.tree_util.tree_map_with_path(is_named, theta)

    def _chosen(self, theta: PyTree) -> PyTree:
        return eqx.filter(theta, self._is_chosen(theta))


class EnergyPenalty(AbstractAddition):
    """loss + strength · mean(E(data)² + E(samples)²).

    Du & Mordatch 2019, "Implicit generation and modeling with energy-based models", section 3.3.
    CD and its kin see differences of energies alone, so that a network's level drifts, and with
    short chains its scale grows; this holds both, and a gradient never sees energies so large that
    their differences are lost in rounding. Samples are held fixed, as in the loss of CD.

    Population target: not that of `objective`. With chains it is where E_data[(1 + 2sE)∇E] =
    E_p[(1 − 2sE)∇E], s the strength: differences of energies shrink, the more the larger 2sE is
    beside 1 (0.01 is little up to some 10 nats). Even where chains never keep up the means stay
    within 1/(2s) of 0: beyond it the penalty wins. Where the level of E is free (a network) it ends
    where the means over data and samples are opposite, so that E = 0 lies half-way between them.
    Where it is a matter of convention (an RBM, an Ising model, a base with its own constant), what
    is far from 0 by convention is pulled there by parameters that mean something else: leave it
    out, or give f a number to add.

    The energies are those that `objective` reports. Where it runs chains (CD, PCD, tempered, with
    hidden parts or layers, replay, recovery, and what adds to these) both halves count, E(data) of
    a row with hidden parts being that with them drawn, or in the mean over its layers. Else there
    are no samples and the penalty is on the data alone (at noisy rows where the objective has no
    others): also with `MaximumLikelihood` and `ConditionalLikelihood`, which sum the other half
    exactly and report its mean alone. It costs nothing beside `objective`.

    **Arguments:** `objective`: what to add to. `strength`: from 0, per nat.

    **Raises:** TypeError unless `objective` is one, and at its first call where that reports no
    spread; ValueError for a negative strength.
    """

    objective: AbstractObjective
    strength: Float[Array, ""] = eqx.field(default=0.01, converter=lambda v: jnp.asarray(v, float))

    def __check_init__(self):
        if not 0 <= float(self.strength) < float("inf"):
            raise ValueError(
                f"EnergyPenalty: expected strength from 0, got {float(self.strength):g}"
            )

    def init(self, energy, data, *, key):
        """(Params, Carry) of `objective`."""
        return self.objective.init(energy, data, key=key)

    def __call__(self, energy, params, batch, carry, *, key):
        loss, carry, metrics = self.objective(energy, params, batch, carry, key=key)
        if "energy_data_sd" not in metrics:
            raise TypeError(
                "EnergyPenalty squares the energies that an objective reports, and the metrics of "
                f"{type(self.objective).__name__} lack energy_data_sd, their spread: add it there"
            )
        square = sum(
            metrics[f"energy_{name}"] ** 2 + metrics[f"energy_{name}_sd"] ** 2
            for name in ("data", "samples")
            if f"energy_{name}_sd" in metrics
        )
        penalty = self.strength * square
        return loss + penalty, carry, metrics | {"energy_penalty": penalty}
