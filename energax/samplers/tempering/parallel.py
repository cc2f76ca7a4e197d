"""Parallel tempering: chains at every rung from a base to the target, which swap places.

Syed, Bouchard-Côté, Deligiannidis & Doucet 2021, "Non-reversible parallel tempering: a scalable
highly parallel MCMC scheme" (arXiv:1905.02939).
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from energax.energies._base import AbstractNormalised, AbstractPath
from energax.samplers._base import (
    AbstractSampler,
    Info,
    State,
    accepted,
    metropolis_probability,
)
from energax.samplers.tempering._base import (
    BaseFit,
    Ladder,
    at_new_betas,
    at_other_beta,
    evenly_spaced,
    first_betas,
)

_FIRST_WINDOW = 16
"""Steps until the ladder is first moved; each later window is twice as long."""

_FEWEST_TRIPS = 100
"""Points that must have come from the base to the target before chains that agree are believed."""


class Counts(eqx.Module):
    """What the swaps met since the ladder last changed, sums over steps.

    Of the pairs (j, j + 1), j = 0 … R − 1: `swaps` their acceptance probability, `up` σ(u_j − c_j)
    and `down` σ(c_j − u_{j+1}) with u = f_{β_{j+1}} − f_{β_j}; pair j is tried at every other step.
    """

    swaps: Float[Array, "pairs chains"]
    up: Float[Array, "pairs chains"]
    down: Float[Array, "pairs chains"]
    round_trips: Int[Array, " chains"]
    tried: Int[Array, "2"]  # steps of even and of odd pairs

    @staticmethod
    def start(num_pairs: int, num_chains: int) -> "Counts":
        zero = jnp.zeros((num_pairs, num_chains), float)
        none = jnp.zeros(num_chains, jnp.int32)
        return Counts(zero, zero, zero, none, jnp.zeros(2, jnp.int32))


class TemperedState(State):
    """The target's chains, and behind them those of all rungs β₁ … β_R = 1 on a leading axis."""

    rungs: Any = None
    ladder: Any = None  # the Ladder that `rungs` were evaluated on
    from_base: Bool[Array, "rungs chains"] | None = None  # not yet at the target since the base
    num_steps: Int[Array, ""] | None = None
    log_z0: Float[Array, ""] | None = None
    counts: Any = None


class TemperedInfo(Info):
    """As `Info`, of the target's chains; and what warm-up learns from."""

    rungs: Any = None
    swap: Float[Array, "pairs chains"] | None = None  # acceptance probability, where tried
    change: Float[Array, "pairs chains"] | None = None  # ½ (u_j + u_{j+1})
    tried: Bool[Array, " pairs"] | None = None


class TemperingTuning(eqx.Module):
    """The ladder, the inner tunings (rungs first), and the window that will move the ladder."""

    ladder: Ladder
    inner: Any
    centre: Float[Array, " pairs"]  # c_j, near log Z_{β_{j+1}}/Z_{β_j}
    fit: BaseFit | None  # None where the base is given
    window: Int[Array, ""]
    steps: Int[Array, ""]
    rejection: Float[Array, " pairs"]
    change: Float[Array, " pairs"]
    tried: Int[Array, " pairs"]


class ParallelTempering(AbstractSampler):
    """Chains at p_β, β₀ = 0 < … < β_R = 1, of which neighbours j, j + 1 swap their points with
    probability min(1, exp(f_{β_j}(x') + f_{β_{j+1}}(x) − f_{β_j}(x) − f_{β_{j+1}}(x'))).

    Syed et al. 2021 (arXiv:1905.02939), "DEO" there: even pairs and odd pairs take turns, which
    makes points travel along the ladder instead of diffusing. At β = 0 each step draws anew from
    the base. The path is `energy.path(base)`, so that an RBM's rungs are RBMs.

    In warm-up every rung tunes its own inner kernel, and the rungs move to where all swap rates are
    the same (section 5.1; windows of doubling length), for the whole ensemble. Where no base is
    given, the base's unbounded coordinates are fitted meanwhile, first to the starts and then to
    the target's chains, never narrowing fast (after Surjanovic et al. 2022, arXiv:2206.00080):
    starts should be spread at least as wide as the modes.

    `describe` tells `betas`, `swap_rate` of each pair, the communication `barrier` Λ (sum of the
    rejection rates; over some 0.7·R more rungs are due), `round_trip_rate` (points that came all
    the way from the base to the target, per chain and step; at most 1/(2 + 2 Σ r/(1 − r)) with
    rejection rates r), and `log_z` by the acceptance ratio (Bennett 1976, eq. 12) with
    `log_z_std_err` from the spread over chains.

    **Arguments:** `sampler`: the kernel of every rung but the base. `base`: an AbstractNormalised
    on the energy's space, None for one fitted in warm-up. `num_rungs`: R, about 2Λ is best
    (as they find). `num_moves`: inner steps between swaps.

    **Raises:** ValueError unless `num_rungs` and `num_moves` are at least 1.
    """

    sampler: AbstractSampler
    base: AbstractNormalised | None = None
    num_rungs: int = eqx.field(static=True, default=12)
    num_moves: int = eqx.field(static=True, default=1)
    backwards: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.num_rungs < 1 or self.num_moves < 1:
            raise ValueError(
                "ParallelTempering: expected num_rungs and num_moves from 1, got "
                f"{self.num_rungs} and {self.num_moves}"
            )

    @property
    def is_exact(self):
        return self.sampler.is_exact

    @property
    def crosses_modes(self):
        return True

    def evaluations_per_step(self, energy):
        inner = self.sampler.evaluations_per_step(energy)
        return self.num_rungs * (self.num_moves * inner + 1) + 1

    def init(self, energy, x, *, key):
        """(State, Tuning) with all rungs at `x`.

        **Raises:** TypeError if the space has no default base, or the inner sampler refuses.
        """
        betas = first_betas(self.num_rungs)
        fit = BaseFit.start(x) if self.base is None else None
        base = self.base if fit is None else fit.base(energy.space)
        assert base is not None
        path = energy.path(base)
        keys = jax.random.split(key, self.num_rungs)
        rungs, inner = eqx.filter_vmap(
            lambda beta, key: self.sampler.init(path.at(beta), x, key=key)
        )(betas, keys)
        num_chains = rungs.log_density.shape[1]
        whole, zeros = jnp.zeros((), jnp.int32), jnp.zeros(self.num_rungs, float)
        counts = Counts.start(self.num_rungs, num_chains)
        # version −1: on no tuning's ladder, should this state be joined to another tuning
        state = _state(
            rungs,
            Ladder(betas, base, whole - 1),
            jnp.zeros((self.num_rungs, num_chains), bool),
            whole,
            path,
            counts,
        )
        tuning = TemperingTuning(
            Ladder(betas, base, whole),
            inner,
            zeros,
            fit,
            whole + _FIRST_WINDOW,
            whole,
            zeros,
            zeros,
            jnp.zeros(self.num_rungs, jnp.int32),
        )
        return state, tuning

    def refresh(self, energy, state):
        assert isinstance(state, TemperedState)
        path = energy.path(state.ladder.base)
        rungs = self._evaluated(path, state.ladder, state.rungs)
        return _state(
            rungs, state.ladder, state.from_base, state.num_steps, path, _empty(state.counts)
        )

    def _evaluated(self, path: AbstractPath, ladder: Ladder, rungs):
        return eqx.filter_vmap(lambda beta, s: self.sampler.refresh(path.at(beta), s))(
            ladder.betas, rungs
        )

    def step(self, energy, state, tuning, *, key):
        assert isinstance(state, TemperedState)
        path, ladder = energy.path(tuning.ladder.base), tuning.ladder
        key_move, key_swap = jax.random.split(key)
        rungs, counts = jax.lax.cond(
            state.ladder.version == ladder.version,
            lambda rungs, counts: (rungs, counts),
            lambda rungs, counts: (self._evaluated(path, ladder, rungs), _empty(counts)),
            state.rungs,
            state.counts,
        )
        assert state.num_steps is not None
        parity = state.num_steps % 2
        if self.backwards:
            rungs, from_base, counts, swap = self._swap(
                path, tuning, rungs, state.from_base, counts, parity, key_swap
            )
            rungs, info = self._move(path, tuning, rungs, key_move)
        else:
            rungs, info = self._move(path, tuning, rungs, key_move)
            rungs, from_base, counts, swap = self._swap(
                path, tuning, rungs, state.from_base, counts, parity, key_swap
            )
        state = _state(rungs, ladder, from_base, state.num_steps + 1, path, counts)
        spent = info.evaluations
        if spent is not None:
            spent = self.num_moves * jnp.sum(spent, axis=0) + self.num_rungs + 1
        acceptance, divergent = info.acceptance[-1], info.divergent[-1]
        return state, TemperedInfo(acceptance, divergent, spent, info, *swap)

    def _move(self, path, tuning, rungs, key):
        """`num_moves` inner steps of every rung; the report is of the last, but for its cost."""

        def move(rungs, key):
            return eqx.filter_vmap(
                lambda beta, s, t, k: self.sampler.step(path.at(beta), s, t, key=k)
            )(tuning.ladder.betas, rungs, tuning.inner, jax.random.split(key, self.num_rungs))

        if self.num_moves == 1:
            return move(rungs, key)
        rungs, info = jax.lax.scan(move, rungs, jax.random.split(key, self.num_moves))
        last = jax.tree.map(lambda a: a[-1], info)
        if info.evaluations is None:
            return rungs, last
        return rungs, eqx.tree_at(lambda i: i.evaluations, last, info.evaluations.mean(0))

    def _swap(self, path, tuning, rungs, from_base, counts, parity, key):
        """Pairs j of the given parity try to swap; the base's side of pair 0 is drawn anew.

        Each point as it would be at its partner's β: that decides, and is its state there.
        """
        key_base, key_accept = jax.random.split(key)
        betas = tuning.ladder.all_betas
        num_chains = rungs.log_density.shape[1]
        rung = jnp.arange(1, self.num_rungs + 1)
        partner = jnp.where(rung % 2 == parity, jnp.minimum(rung + 1, self.num_rungs), rung - 1)
        moved = eqx.filter_vmap(
            lambda here, there, s: at_other_beta(self.sampler, path, s, here, there)
        )(betas[1:], betas[partner], rungs)
        x0 = path.draw(num_chains, key=key_base)
        start = eqx.tree_at(lambda s: s.x, jax.tree.map(lambda a: a[0], rungs), x0)
        start = self.sampler.refresh(path.at(betas[1]), start)  # at the place it may go to
        f0 = at_other_beta(self.sampler, path, start, betas[1], 0.0).log_density

        here = jnp.concatenate([f0[None], rungs.log_density])
        there = jnp.concatenate([start.log_density[None], moved.log_density])
        change = there - here
        new, old = there[:-1] + there[1:], here[:-1] + here[1:]
        probability = metropolis_probability(change[:-1] + change[1:], old, jnp.isfinite(new))
        tried = jnp.arange(self.num_rungs) % 2 == parity
        accept = tried[:, None] & accepted(key_accept, probability)
        up = jnp.concatenate([accept[1:], jnp.zeros_like(accept[:1])])  # with the rung above

        def exchanged(own, other, first):
            """Own value, or that of the rung above or below; what is no chain's own stays."""
            if own.shape[:2] != accept.shape:
                return own
            below = jnp.concatenate([first[None], other[:-1]])
            above = jnp.concatenate([other[1:], other[-1:]])
            shape = accept.shape + (1,) * (own.ndim - 2)
            return jnp.where(accept.reshape(shape), below, jnp.where(up.reshape(shape), above, own))

        rungs = jax.tree.map(exchanged, rungs, moved, start)
        from_base = exchanged(from_base, from_base, jnp.ones(num_chains, bool))
        arrived = from_base[-1]
        from_base = from_base.at[-1].set(False)

        # u_j at the lower and at the upper point of each pair
        lower, upper = change[:-1], -change[1:]
        seen, centre = tried[:, None], tuning.centre[:, None]
        counts = Counts(
            counts.swaps + jnp.where(seen, probability, 0.0),
            counts.up + jnp.where(seen, jnp.nan_to_num(jax.nn.sigmoid(lower - centre)), 0.0),
            counts.down + jnp.where(seen, jnp.nan_to_num(jax.nn.sigmoid(centre - upper)), 0.0),
            counts.round_trips + arrived,
            counts.tried + (jnp.arange(2) == parity),
        )
        return rungs, from_base, counts, (probability, (lower + upper) / 2, tried)

    def reversal(self):
        return ParallelTempering(
            self.sampler.reversal(), self.base, self.num_rungs, self.num_moves, not self.backwards
        )

    def adapt(self, tuning, state, info):
        assert isinstance(info, TemperedInfo) and isinstance(state, TemperedState)
        assert info.change is not None and info.swap is not None and info.tried is not None
        inner = eqx.filter_vmap(self.sampler.adapt)(tuning.inner, state.rungs, info.rungs)
        fit = None if tuning.fit is None else tuning.fit.update(state.x)
        finite = jnp.isfinite(info.change)
        change = jnp.mean(jnp.where(finite, info.change, tuning.centre[:, None]), axis=1)
        tried = info.tried
        tuning = TemperingTuning(
            tuning.ladder,
            inner,
            tuning.centre,
            fit,
            tuning.window,
            tuning.steps + 1,
            tuning.rejection + jnp.where(tried, 1 - jnp.mean(info.swap, axis=1), 0.0),
            tuning.change + jnp.where(tried, change, 0.0),
            tuning.tried + tried,
        )
        return jax.lax.cond(
            tuning.steps >= tuning.window, lambda t: self._moved(t), lambda t: t, tuning
        )

    def _moved(self, tuning: TemperingTuning) -> TemperingTuning:
        """The ladder at even rejection rates, the tunings there, and a longer window."""
        old = tuning.ladder
        tried = jnp.maximum(tuning.tried, 1)
        betas = evenly_spaced(old.betas, tuning.rejection / tried)
        fit = None if tuning.fit is None else tuning.fit.renewed()
        base = old.base if fit is None else fit.base(old.base.space)
        log_z = jnp.concatenate([jnp.zeros(1), jnp.cumsum(tuning.change / tried)])
        new = jnp.concatenate([jnp.zeros(1), betas])
        zeros = jnp.zeros_like(tuning.rejection)
        return TemperingTuning(
            old.changed(betas, base),
            at_new_betas(tuning.inner, old.betas, betas),
            jnp.diff(jnp.interp(new, old.all_betas, log_z)).astype(zeros.dtype),
            fit,
            2 * tuning.window,
            jnp.zeros_like(tuning.steps),
            zeros,
            zeros,
            jnp.zeros_like(tuning.tried),
        )

    def freeze(self, tuning):
        """Every inner tuning frozen; the counts of the run start from here."""
        inner = eqx.filter_vmap(self.sampler.freeze)(tuning.inner)
        ladder = tuning.ladder.changed(tuning.ladder.betas, tuning.ladder.base)
        return dataclasses.replace(tuning, inner=inner, ladder=ladder)

    def doubts(self, state, tuning):
        assert isinstance(state, TemperedState)
        trips = int(jnp.sum(state.counts.round_trips))
        if trips >= _FEWEST_TRIPS:
            return []
        return [
            f"only {trips} points came all the way from the base to the target, {_FEWEST_TRIPS} "
            "are needed to believe that no mode was missed; run longer (max_evaluations=), or use "
            "more rungs or a better base"
        ]

    def describe(self, state, tuning):
        assert isinstance(state, TemperedState) and state.log_z0 is not None
        counts = state.counts
        pairs = jnp.arange(self.num_rungs)
        tried = jnp.maximum(counts.tried[pairs % 2], 1)[:, None]
        swap_rate = jnp.mean(counts.swaps / tried, axis=1)
        num_steps = jnp.maximum(jnp.sum(counts.tried), 1)
        up, down = jnp.mean(counts.up / tried, 1), jnp.mean(counts.down / tried, 1)
        log_z = state.log_z0 + jnp.sum(tuning.centre + jnp.log(up) - jnp.log(down))
        influence = counts.up / tried / up[:, None] - counts.down / tried / down[:, None]
        num_chains = influence.shape[1]
        spread = jnp.std(jnp.sum(influence, axis=0), ddof=min(1, num_chains - 1))
        last = jax.tree.map(lambda a: a[-1], (state.rungs, tuning.inner))
        return {
            **self.sampler.describe(*last),
            "betas": tuning.ladder.all_betas,
            "swap_rate": swap_rate,
            "barrier": jnp.sum(1 - swap_rate),
            "round_trip_rate": jnp.mean(counts.round_trips / num_steps),
            "log_z": log_z,
            "log_z_std_err": spread / jnp.sqrt(num_chains) if num_chains > 1 else jnp.inf,
        }


def _state(rungs, ladder, from_base, num_steps, path: AbstractPath, counts) -> TemperedState:
    return TemperedState(
        jax.tree.map(lambda a: a[-1], rungs.x),
        rungs.log_density[-1],
        None,
        rungs,
        ladder,
        from_base,
        num_steps,
        path.log_z0,
        counts,
    )


def _empty(counts: Counts) -> Counts:
    return jax.tree.map(jnp.zeros_like, counts)
