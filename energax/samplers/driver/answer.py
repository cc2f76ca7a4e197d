"""`Draws` from what a run kept, or from exact draws."""

import dataclasses
import math
import time
from typing import Any

import equinox as eqx
import jax
import numpy as np

from energax.energies._base import AbstractEnergy, AbstractNormalised, Conditional, batched
from energax.results import Draws
from energax.samplers.driver._base import Assessment, Kept


def answer(assessment: Assessment, num_samples: int, reasons: list[str], **counts) -> Draws:
    """`Draws` from an assessment: evenly thinned draws, the diagnostics of all."""
    kept, summary = assessment.kept, assessment.summary
    x, log_density = _thin(kept, num_samples, counts["num_chains"])
    fields = ("mean", "sd", "mcse_mean", "mcse_sd", "rhat", "ess_bulk", "ess_tail")
    return Draws(
        x=x,
        log_density=log_density,
        **{name: kept.rebuild(getattr(summary, name)[1:]) for name in fields},
        constant=kept.rebuild(summary.is_constant[1:]),
        rhat_log_density=float(summary.rhat[0]),
        ess_log_density=float(summary.ess_bulk[0]),
        rhat_limit=assessment.rhat_limit,
        reliable=not reasons,
        reasons=tuple(reasons),
        **counts,
    )


def complete(draws: Draws, free: AbstractEnergy, conditional: Conditional) -> Draws:
    """Draws of the free part as draws of whole points; what is given counts as constant.

    **Arguments:** `free`: the energy that the draws are of, the conditional one but for a constant.
    """
    example = free.space.example()
    constant = float(conditional.log_density(example)) - float(free.log_density(example))

    def whole(part: Any, axes: int) -> Any:
        done = conditional.complete
        for _ in range(axes):
            done = jax.vmap(done)
        return jax.tree.map(np.asarray, done(jax.tree.map(jax.numpy.asarray, part)))

    def filled(part: Any, fill: Any) -> Any:
        """A field of the free part, in the shape of a whole point, `fill` where it is given."""
        given = jax.tree.map(lambda a: np.full(np.shape(a), fill), conditional.given)
        if conditional.free is None:
            return {**given, **part}
        space = conditional.energy.space
        flat = np.reshape(given, (space.num_sites, *np.shape(part)[1:]))
        flat[np.asarray(conditional.free)] = part
        return flat.reshape(np.shape(conditional.given))

    mean = filled(draws.mean, 0.0)
    fixed = filled(jax.tree.map(np.zeros_like, draws.mean), 1.0)
    given = jax.tree.map(np.asarray, _as_point(conditional))
    mean = jax.tree.map(lambda m, f, g: np.where(f > 0, g, m), mean, fixed, given)
    num = float(draws.num_steps * draws.num_chains)
    fills = {"sd": 0.0, "mcse_mean": 0.0, "mcse_sd": 0.0, "rhat": 1.0}
    fills |= {"ess_bulk": num, "ess_tail": num, "constant": True}
    fields = {name: filled(getattr(draws, name), fill) for name, fill in fills.items()}
    return dataclasses.replace(
        draws,
        x=whole(draws.x, 2),
        log_density=draws.log_density + constant,
        mean=mean,
        **fields,
    )


def _as_point(conditional: Conditional) -> Any:
    """Some whole point with the given values in it."""
    return conditional.complete(conditional.space.example())


def _thin(kept: Kept, num_samples: int, num_chains: int) -> tuple[Any, np.ndarray]:
    """`num_samples` draws at even distances: as many from each chain, give or take one."""
    rows = math.gcd(num_samples, num_chains)
    pooled, size = num_chains // rows, num_samples // rows
    steps = len(kept.log_density)
    places, chains = [], []
    for row in range(rows):
        for i in range(pooled):
            count = size // pooled + (i < size % pooled)
            places.append(((np.arange(count) + 0.5) * steps / max(count, 1)).astype(int))
            chains.append(np.full(count, row * pooled + i))
    at = np.concatenate(places), np.concatenate(chains)
    leaves = [a[at].reshape(rows, size, *a.shape[2:]) for a in kept.leaves]
    f = kept.log_density[at].reshape(rows, size).astype(np.float64)
    return jax.tree.unflatten(kept.structure, leaves), f


def draw_exactly(
    energy: AbstractNormalised, num_samples: int, num_chains: int, start: float, *, key
) -> Draws:
    """Independent draws; their moments are taken from at least 4,096 of them."""
    sites = max(energy.space.num_sites, 1)
    num = max(num_samples, min(4_096, 2**24 // sites))
    x = eqx.filter_jit(lambda energy, key: energy.draw(num, key=key))(energy, key)
    log_density = np.asarray(eqx.filter_jit(batched)(energy, x), np.float64)
    x = jax.tree.map(np.asarray, x)
    rows = math.gcd(num_samples, num_chains)

    def by_row(a):
        return a[:num_samples].reshape(rows, -1, *a.shape[1:])

    mean = jax.tree.map(lambda a: a.mean(0, dtype=np.float64), x)
    sd = jax.tree.map(lambda a: a.std(0, ddof=1, dtype=np.float64) if num > 1 else a[0] * np.inf, x)

    def sd_error(a, mean, sd):  # the delta method for the sd of independent draws
        fourth = ((a - mean) ** 4).mean(0)
        return np.sqrt(np.maximum(fourth - sd**4, 0) / num) / np.where(sd > 0, 2 * sd, 1.0)

    def full(value):
        return jax.tree.map(lambda a: np.full(a.shape, value), mean)

    reasons = []
    if not np.isfinite(log_density).all():
        reasons.append("f is not finite at some of its own exact draws: its parameters are not")
    return Draws(
        x=jax.tree.map(by_row, x),
        log_density=by_row(log_density),
        mean=mean,
        sd=sd,
        mcse_mean=jax.tree.map(lambda s: s / math.sqrt(num), sd),
        mcse_sd=jax.tree.map(sd_error, x, mean, sd),
        rhat=full(1.0),
        ess_bulk=full(float(num)),
        ess_tail=full(float(num)),
        constant=jax.tree.map(lambda s: s == 0, sd),
        rhat_log_density=1.0,
        ess_log_density=float(num),
        rhat_limit=1.0,
        acceptance=1.0,
        num_divergent=0,
        sampler="exact draws",
        num_chains=num_chains,
        num_warmup=0,
        num_steps=num // num_chains,
        num_evaluations=num,
        seconds=time.perf_counter() - start,
        time_limited=False,
        reliable=not reasons,
        reasons=tuple(reasons),
    )
