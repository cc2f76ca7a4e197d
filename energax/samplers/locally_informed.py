"""Locally informed proposals on discrete spaces: what changing each site would do guides the move.

D, the change of f for every one-site change, is exact where the energy knows it
(`AbstractLocalEnergy`), else the gradient's guess ∇f(x)·(x' − x) (Grathwohl et al. 2021, eq. 4).
Weighting changes by √(p(x')/p(x)) = exp(D/2) is locally balanced (Zanella 2020, section 2). Both
kernels are corrected by Metropolis and Hastings, so that a bad guess costs speed and no more.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from energax.energies._base import (
    AbstractBipartiteEnergy,
    AbstractEnergy,
    AbstractLocalEnergy,
    batched,
)
from energax.samplers._base import (
    AbstractSampler,
    DualAveraging,
    Info,
    State,
    accepted,
    choose,
    metropolis_probability,
)
from energax.spaces import AbstractArraySpace, Binary, Categorical, Ordinal, Point, Spin

_TARGET = 0.574  # Sun, Dai & Schuurmans 2022: the optimal acceptance of locally balanced proposals
_MOST_FLIPS = 16


class LocalState(State):
    """The ensemble with D, f(x with one site changed) − f(x), exact or guessed by the gradient.

    (chains, sites) for the flip of each site on two-valued spaces; (chains, sites, k) else, 0 at
    the value that the site has.
    """

    differences: Float[Array, "chains sites *k"] | None = None


class GibbsWithGradients(AbstractSampler):
    """Flips sites i₁, …, i_L drawn one after the other with q(i) ∝ exp(D_i/2), without repetition.

    Grathwohl et al. 2021 (arXiv:2102.04509), algorithm 1, is L = 1; for more, D is kept along the
    path and the path taken backwards, i_L, …, i₁ with D(x'), is weighed in the acceptance
    min(1, p(x')q(x ← x') / p(x)q(x' ← x)) (Sun et al. 2022, "Path auxiliary proposal for MCMC in
    discrete space", eq. 9). Where a site has more than two values, (i, j) is drawn with
    q ∝ exp(D_ij/2), on Ordinal with guessed D among the two next values only.

    In warm-up the expected L is driven to an acceptance of 0.574 (Sun, Dai & Schuurmans 2022).

    **Arguments:** `max_flips`: the largest L; None takes a quarter of the sites, at most 16; 1 has
    nothing to tune. `differences`: "exact", "gradient", or None for exact ones where the energy has
    them at about the cost of a gradient (an RBM has not).
    """

    max_flips: int | None = eqx.field(static=True, default=None)
    differences: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.max_flips is not None and self.max_flips < 1:
            raise ValueError(
                f"max_flips: expected a whole number from 1 or None, got {self.max_flips}"
            )
        _check_differences(self.differences)

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 2.0 if _is_exact(energy, self.differences) else 1.0

    def init(self, energy, x, *, key):
        """(LocalState, the dual averaging of log E[L], or None for L = 1).

        **Raises:** TypeError on spaces without a gradient or where sites have no few values.
        """
        _check_space(self, energy)
        state = _evaluate(energy, x, self.differences)
        return state, None if self._most(energy.space.num_sites) == 1 else DualAveraging.start(1.0)

    def refresh(self, energy, state):
        return _evaluate(energy, state.x, self.differences)

    def _most(self, sites: int) -> int:
        most = min(_MOST_FLIPS, -(-sites // 4)) if self.max_flips is None else self.max_flips
        return min(most, sites)

    def step(self, energy, state, tuning, *, key):
        assert isinstance(state, LocalState)
        keys = jax.random.split(key, 4)
        most = self._most(energy.space.num_sites)
        chains = state.log_density.shape[0]
        active = jnp.ones((chains, 1), bool)
        if tuning is not None:
            expected = jnp.clip(jnp.exp(tuning.log_step), 1.0, most)
            length = jnp.floor(expected + jax.random.uniform(keys[3], (chains, 1)))
            active = jnp.arange(most) < length
        old = _codes(energy.space, state.x)
        moves = self._log_weights(energy, state, old)
        sites, by_site = _by_site(moves)
        noise = jax.random.gumbel(keys[0], sites.shape, sites.dtype)
        path = jax.lax.top_k(sites + noise, most)[1] if most > 1 else _argmax(sites + noise)
        here = jnp.take_along_axis(old, path, 1)
        if by_site:
            there = 1 - here
        else:
            rows = jnp.take_along_axis(moves, path[..., None], 1)
            there = jnp.argmax(rows + jax.random.gumbel(keys[1], rows.shape, rows.dtype), -1)
        there = jnp.where(active, there, here).astype(old.dtype)
        new = old.at[jnp.arange(chains)[:, None], path].set(there, unique_indices=True)
        proposed = _evaluate(energy, _points(energy.space, new), self.differences)
        back = self._log_weights(energy, proposed, new)
        log_ratio = (
            proposed.log_density
            - state.log_density
            + _log_path(back, path, here, active, backwards=True)
            - _log_path(moves, path, there, active, backwards=False)
        )
        return _accept(state, proposed, log_ratio, keys[2])

    def _log_weights(self, energy, state, codes):
        """log of the weight exp(D/2) of each change, −∞ where there is none."""
        assert state.differences is not None
        d = state.differences / 2
        if d.ndim == 2:
            return d
        distance = jnp.abs(jnp.arange(d.shape[-1]) - codes[..., None])
        guessed = not _is_exact(energy, self.differences)
        near = guessed and isinstance(energy.space, Ordinal)
        return jnp.where(distance == 1 if near else distance != 0, d, -jnp.inf)

    def adapt(self, tuning, state, info):
        return None if tuning is None else tuning.update(info.acceptance, _TARGET)

    def freeze(self, tuning):
        return None if tuning is None else tuning.freeze()

    def describe(self, state, tuning):
        if tuning is None:
            return {"flips": 1.0}
        assert isinstance(state, LocalState) and state.differences is not None
        most = self._most(state.differences.shape[1])
        return {"flips": jnp.clip(tuning.step_size, 1.0, most)}


class DiscreteLangevin(AbstractSampler):
    """Every site at once, q(x'_i = j) ∝ exp(D_ij/2 − |j − x_i|²/(2α)), then Metropolis' correction.

    DMALA of Zhang, Liu & Liu 2022 (arXiv:2206.09914), eq. 4 and algorithm 1; |j − x_i| is measured
    in the encoding that f sees (4 for the square of a spin's flip, 2 for a change of category).

    In warm-up the step size α drives the mean acceptance to 0.574 (Sun, Dai & Schuurmans 2022), by
    dual averaging of a = exp(−d²/(2α)), d² the square of the smallest change: it is the rate of
    flips, other things equal.

    **Arguments:** `step_size`: α; None is tuned in warm-up. `differences`: "exact", "gradient", or
    None for exact ones where the energy has them at about the cost of a gradient.
    """

    step_size: Float[Array, ""] | None = eqx.field(
        default=None, converter=lambda step: None if step is None else jnp.asarray(step, float)
    )
    differences: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _check_differences(self.differences)

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 2.0 if _is_exact(energy, self.differences) else 1.0

    def init(self, energy, x, *, key):
        """(LocalState, the dual averaging of log a, or None for a given step size).

        **Raises:** TypeError on spaces without a gradient or where sites have no few values.
        """
        _check_space(self, energy)
        state = _evaluate(energy, x, self.differences)
        if self.step_size is not None:
            return state, None
        return state, DualAveraging.start(energy.space.num_sites**-0.5)

    def refresh(self, energy, state):
        return _evaluate(energy, state.x, self.differences)

    def step(self, energy, state, tuning, *, key):
        assert isinstance(state, LocalState)
        key_sites, key_accept = jax.random.split(key)
        if tuning is None:
            log_rate = -_smallest(energy.space) / (2 * jnp.asarray(self.step_size))
        else:
            log_rate = jnp.minimum(tuning.log_step, 0.0)
        old = _codes(energy.space, state.x)
        here = _site_logits(state, old, energy.space, log_rate)
        if here.ndim == 2:
            u = jax.random.uniform(key_sites, here.shape, here.dtype)
            new = jnp.where(u < jax.nn.sigmoid(here), 1 - old, old)
        else:
            noise = jax.random.gumbel(key_sites, here.shape, here.dtype)
            new = jnp.argmax(here + noise, -1).astype(old.dtype)
        proposed = _evaluate(energy, _points(energy.space, new), self.differences)
        there = _site_logits(proposed, new, energy.space, log_rate)
        log_ratio = (
            proposed.log_density
            - state.log_density
            + _log_sites(there, new, old)
            - _log_sites(here, old, new)
        )
        return _accept(state, proposed, log_ratio, key_accept)

    def adapt(self, tuning, state, info):
        return None if tuning is None else tuning.update(info.acceptance, _TARGET)

    def freeze(self, tuning):
        return None if tuning is None else tuning.freeze()

    def describe(self, state, tuning):
        if tuning is None:
            return {"step_size": self.step_size}
        return {"flip_rate": jnp.minimum(tuning.step_size, 1.0)}


# The differences


def _check_differences(value) -> None:
    if value not in (None, "exact", "gradient"):
        raise ValueError(f"differences: expected 'exact', 'gradient' or None, got {value!r}")


def _is_exact(energy: AbstractEnergy, differences: str | None) -> bool:
    """Whether D is asked of the energy; of an RBM it would cost a pass over W for every unit."""
    if differences is None:
        return isinstance(energy, AbstractLocalEnergy) and not isinstance(
            energy, AbstractBipartiteEnergy
        )
    return differences == "exact"


def _check_space(sampler: Any, energy: AbstractEnergy) -> None:
    name, space = type(sampler).__name__, energy.space
    exact = _is_exact(energy, sampler.differences)
    if exact and not isinstance(energy, AbstractLocalEnergy):
        raise TypeError(
            f"{name}: differences='exact' needs an energy that knows its one-site changes (an "
            f"AbstractLocalEnergy such as Ising), got {type(energy).__name__}; leave it out"
        )
    if isinstance(space, Categorical) and space.encoding == "index" and not exact:
        raise TypeError(
            f"{name} differentiates f, and JAX differentiates no integers, got {space}; use "
            'Categorical(..., encoding="onehot"), which gives f floats (..., k)'
        )
    if not isinstance(space, (Binary, Spin, Categorical, Ordinal)):
        raise TypeError(
            f'{name} moves x on Binary, Spin, Ordinal and Categorical(..., encoding="onehot") '
            f"spaces, got {space}; use Metropolis(), which works on every space (or bound counts "
            "by Ordinal)"
        )


def _evaluate(energy: AbstractEnergy, x: Point, differences: str | None) -> LocalState:
    """f and D of the ensemble; where f or its gradient is not finite D becomes 0."""
    space = energy.space
    assert isinstance(space, AbstractArraySpace)
    chains, sites = x.shape[0], space.num_sites
    if _is_exact(energy, differences):
        assert isinstance(energy, AbstractLocalEnergy)
        f, d = batched(energy, x), -jax.vmap(energy.site_differences)(x)
        tail = () if _is_two_valued(space) else (-1,)
        lost = jnp.isnan(d) | (d == jnp.inf)  # from where f is not finite; −∞ leads to there
        return LocalState(x, f, differences=jnp.where(lost, 0.0, d).reshape(chains, sites, *tail))
    f, slope = jax.vmap(jax.value_and_grad(energy.log_density))(x)
    slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
    if isinstance(space, Binary):
        d = ((1 - 2 * x) * slope).reshape(chains, sites)
    elif isinstance(space, Spin):
        d = (-2 * x * slope).reshape(chains, sites)
    elif isinstance(space, Ordinal):
        x_sites, slope = x.reshape(chains, sites, 1), slope.reshape(chains, sites, 1)
        d = (jnp.arange(space.num_values) - x_sites) * slope
    else:
        slope = slope.reshape(chains, sites, -1)
        d = slope - jnp.sum(slope * x.reshape(slope.shape), -1, keepdims=True)
    return LocalState(x, f, differences=d)


def _accept(state: LocalState, proposed: LocalState, log_ratio, key) -> tuple[LocalState, Info]:
    f = proposed.log_density
    divergent = jnp.isnan(f) | (f == jnp.inf)
    usable = jnp.isfinite(f) & (~jnp.isnan(log_ratio) | ~jnp.isfinite(state.log_density))
    probability = metropolis_probability(log_ratio, state.log_density, usable)
    accept = accepted(key, probability)
    return choose(accept, proposed, state), Info(probability, divergent)


# Values by number: 0 and 1 on two-valued spaces, else 0 to k − 1


def _is_two_valued(space) -> bool:
    return isinstance(space, (Binary, Spin))


def _codes(space, x: Point) -> Int[Array, "chains sites"]:
    if isinstance(space, Categorical):
        x = space.decode(x)
    x = x.reshape(x.shape[0], -1)
    return (x > 0).astype(jnp.int32) if _is_two_valued(space) else x.astype(jnp.int32)


def _points(space, codes: Int[Array, "chains sites"]) -> Point:
    if isinstance(space, Categorical):
        return space.encode(codes.reshape(-1, *space.sites))
    x = codes.reshape(-1, *space.shape).astype(space.dtype)
    return 2 * x - 1 if isinstance(space, Spin) else x


# Gibbs with gradients


def _argmax(a: Float[Array, "chains sites"]) -> Int[Array, "chains 1"]:
    return jnp.argmax(a, axis=1, keepdims=True).astype(jnp.int32)


def _by_site(moves: Float[Array, "chains sites *k"]) -> tuple[Float[Array, "chains sites"], bool]:
    """log of the weight of each site, and whether that is all there is to choose."""
    return (moves, True) if moves.ndim == 2 else (jax.nn.logsumexp(moves, axis=-1), False)


def _log_path(
    moves: Float[Array, "chains sites *k"],
    path: Int[Array, "chains most"],
    values: Int[Array, "chains most"],
    active: Bool[Array, "chains most"],
    *,
    backwards: bool,
) -> Float[Array, " chains"]:
    """log q of taking the sites of `path` (backwards: from its end) to `values`, none twice.

    Π_l w(i_l, j_l) / (total weight of the sites that are left at l): the sums are formed from
    what is left, as subtracting what was taken from the total would cancel.
    """
    sites, by_site = _by_site(moves)
    taken = jnp.take_along_axis(sites, path, 1)
    if by_site:
        chosen = taken
    else:
        rows = jnp.take_along_axis(moves, path[..., None], 1)
        chosen = jnp.take_along_axis(rows, values[..., None], 2)[..., 0]
    if path.shape[1] == 1:
        return chosen[:, 0] - jax.nn.logsumexp(sites, axis=1)
    taken = jnp.where(active, taken, -jnp.inf)
    chain = jnp.arange(len(path))[:, None]
    rest = sites.at[chain, path].set(
        jnp.where(active, -jnp.inf, jnp.take_along_axis(sites, path, 1)), unique_indices=True
    )
    rest = jax.nn.logsumexp(rest, axis=1, keepdims=True)
    left = jnp.logaddexp(rest, jax.lax.cumlogsumexp(taken, axis=1, reverse=not backwards))
    return jnp.sum(jnp.where(active, chosen - left, 0.0), axis=1)


# Discrete Langevin


def _smallest(space) -> float:
    """Squared distance of the smallest change of a site, in the encoding that f sees."""
    return {Binary: 1.0, Spin: 4.0, Ordinal: 1.0, Categorical: 2.0}[type(space)]


def _site_logits(state, codes, space, log_rate) -> Float[Array, "chains sites *k"]:
    """log q of each site's values, unnormalised; of its flip against staying if it has two."""
    d = state.differences / 2
    if d.ndim == 2:
        return d + log_rate
    distance = jnp.abs(jnp.arange(d.shape[-1]) - codes[..., None])
    cost = distance**2 if isinstance(space, Ordinal) else distance != 0
    return d + jnp.where(distance == 0, 0.0, log_rate * cost)


def _log_sites(
    logits: Float[Array, "chains sites *k"],
    old: Int[Array, "chains sites"],
    new: Int[Array, "chains sites"],
) -> Float[Array, " chains"]:
    """Σ_i log q(new_i), the logits being those at `old`."""
    if logits.ndim == 2:
        return jnp.sum(jax.nn.log_sigmoid(jnp.where(new != old, logits, -logits)), axis=1)
    chosen = jnp.take_along_axis(logits, new[..., None], 2)[..., 0]
    return jnp.sum(chosen - jax.nn.logsumexp(logits, axis=-1), axis=1)
