"""`Draws` of a mixture from draws of its components."""

import math
from typing import Any

import equinox as eqx
import jax
import numpy as np

from energax.energies._base import batched
from energax.energies.mixture import ModelMixture
from energax.results import Draws

SHARE_ERROR = 0.25  # standard error of a component's log Z, in nats, beyond which shares are vague


def pooled(
    energy: ModelMixture,
    parts: list[Draws],
    counts: np.ndarray,
    num_chains: int,
    seconds: float,
    rng: np.random.Generator,
) -> Draws:
    """`counts` draws of each component in a random order, and the moments of the whole.

    With m_k, v_k, e_k mean, variance and error of component k and s_k the error of its log Z:
    mean = Σ w_k m_k, variance = Σ w_k (v_k + (m_k − mean)²), error² = Σ w_k² (e_k² + s_k² (m_k −
    mean)²) (Owen 2013, section 8.4, on stratified sampling; the last term by the delta method).
    """
    weights = energy.weights
    errors = np.asarray(energy.shares.module.log_z_std_err, np.float64)
    num = int(counts.sum())
    order = rng.permutation(num)
    x = jax.tree.map(
        lambda *leaves: np.concatenate([a[:n] for a, n in zip(leaves, counts, strict=True)])[order],
        *(part.flat() for part in parts),
    )
    log_density = np.asarray(eqx.filter_jit(batched)(energy, x), np.float64)
    rows = math.gcd(num, num_chains)

    def by_row(a):
        return a.reshape(rows, -1, *a.shape[1:])

    def total(*each):
        return np.tensordot(weights, np.stack(each), 1)

    def root(*squares):
        return np.sqrt(np.tensordot(weights**2, np.stack(squares), 1))

    def moments(*each):
        """(mean, sd, their errors) of one array from (m, sd, error of m, error of sd) of parts."""
        m, sd, e, e_sd = (np.stack(column) for column in zip(*each, strict=True))
        mean = total(*m)
        off, s = m - mean, errors.reshape(-1, *(1,) * mean.ndim)
        square = sd**2 + off**2
        variance = total(*square)
        slack = (2 * sd * e_sd) ** 2 + (2 * off * e) ** 2 + (s * (square - variance)) ** 2
        spread = np.sqrt(variance)
        error_sd = root(*slack) / np.where(spread > 0, 2 * spread, 1.0)
        return mean, spread, root(*(e**2 + (s * off) ** 2)), error_sd

    def columns(part: Draws):
        fields = part.mean, part.sd, part.mcse_mean, part.mcse_sd
        return jax.tree.map(lambda *each: each, *fields)

    is_tuple = {"is_leaf": lambda node: isinstance(node, tuple)}
    found = jax.tree.map(moments, *map(columns, parts), **is_tuple)
    mean, sd, mcse_mean, mcse_sd = (
        jax.tree.map(lambda each, i=i: each[i], found, **is_tuple) for i in range(4)
    )
    most = sum(part.num_steps * part.num_chains for part in parts)

    def least(name: str) -> Any:
        return jax.tree.map(
            lambda *each: np.min(each, axis=0), *(getattr(part, name) for part in parts)
        )

    reasons = energy.doubts(parts) + [
        f"component {i}: its log Z has a standard error of {error:.2g} nat, so that its share of "
        f"the mixture is vague; {SHARE_ERROR} is allowed, give a better one as log_z="
        for i, error in enumerate(errors)
        if not error <= SHARE_ERROR
    ]
    return Draws(
        x=jax.tree.map(by_row, x),
        log_density=by_row(log_density),
        mean=mean,
        sd=sd,
        mcse_mean=mcse_mean,
        mcse_sd=mcse_sd,
        rhat=jax.tree.map(lambda *each: np.max(each, axis=0), *(part.rhat for part in parts)),
        ess_bulk=jax.tree.map(
            lambda s, e: np.where(e > 0, (s / np.where(e > 0, e, 1.0)) ** 2, float(most)),
            sd,
            mcse_mean,
        ),
        ess_tail=least("ess_tail"),
        constant=jax.tree.map(lambda s: s == 0, sd),
        rhat_log_density=max(part.rhat_log_density for part in parts),
        ess_log_density=min(part.ess_log_density for part in parts),
        rhat_limit=max(part.rhat_limit for part in parts),
        acceptance=float(weights @ [part.acceptance for part in parts]),
        num_divergent=sum(part.num_divergent for part in parts),
        sampler="components: " + ", ".join(dict.fromkeys(part.sampler for part in parts)),
        num_chains=num_chains,
        num_warmup=max(part.num_warmup for part in parts),
        num_steps=max(part.num_steps for part in parts),
        num_evaluations=sum(part.num_evaluations for part in parts),
        seconds=seconds,
        time_limited=any(part.time_limited for part in parts),
        reliable=not reasons,
        reasons=tuple(reasons),
        details={f"component {i}": part.sampler for i, part in enumerate(parts)},
    )
