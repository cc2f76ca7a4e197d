"""The No-U-Turn sampler of BlackJAX on our loop: `pip install energax[nuts]`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from energax.samplers._base import (
    AbstractSampler,
    DualAveraging,
    Info,
    Metric,
    State,
    evaluate,
    start_on_real,
)


class NUTSTuning(eqx.Module):
    """ε by dual averaging, and the metric."""

    factor: DualAveraging
    metric: Metric


class NUTS(AbstractSampler):
    """(x, v) → a point of a path that doubles until its ends turn back, drawn by exp(−H).

    Hoffman & Gelman 2014 (arXiv:1111.4246), with multinomial weights (Betancourt 2017,
    arXiv:1701.02434, appendix A.3), by BlackJAX's kernel. Each chain has its own number of
    leapfrogs, and a step takes as long as the longest of them: where the ensemble is large, `ChEES`
    is faster. In warm-up the chains learn ε and the metric together, as in `HMC`.

    **Arguments:** `max_doublings`: of the path. `target_acceptance`: in (0, 1). `dense`: whether
    the metric is a full matrix.

    **Raises:** ImportError unless BlackJAX 1.7 is installed.
    """

    target_acceptance: Float[Array, ""]
    max_doublings: int = eqx.field(static=True)
    dense: bool = eqx.field(static=True)

    def __init__(self, *, max_doublings: int = 10, target_acceptance=0.8, dense: bool = False):
        _blackjax()
        self.target_acceptance = jnp.asarray(target_acceptance, float)
        self.max_doublings = max_doublings
        self.dense = dense

    is_exact = property(lambda self: True)

    def evaluations_per_step(self, energy):
        return 10.0  # a typical path

    def init(self, energy, x, *, key):
        state = start_on_real(self, energy, x)
        first = DualAveraging.start(energy.space.num_sites**-0.25)
        return state, NUTSTuning(first, Metric.start(x, self.dense))

    def refresh(self, energy, state):
        return evaluate(energy, state.x)

    def step(self, energy, state, tuning, *, key):
        nuts = _blackjax().mcmc.nuts
        hmc_state = _blackjax().mcmc.hmc.HMCState
        kernel = nuts.build_kernel()
        factor = tuning.metric.factor
        inverse_mass = factor**2 if factor.ndim == 1 else factor @ factor.T
        step_size = jnp.exp(tuning.factor.log_step)

        def one(key, x, log_density, gradient):
            return kernel(
                key,
                hmc_state(x, log_density, gradient),
                energy.log_density,
                step_size,
                inverse_mass,
                self.max_doublings,
            )

        keys = jax.random.split(key, state.log_density.shape[0])
        new, told = jax.vmap(one)(keys, state.x, state.log_density, state.gradient)
        state = State(new.position, new.logdensity, new.logdensity_grad)
        evaluations = told.num_integration_steps.astype(state.log_density.dtype)
        acceptance = jnp.nan_to_num(told.acceptance_rate)
        return state, Info(acceptance, told.is_divergent, evaluations)

    def adapt(self, tuning, state, info):
        factor = tuning.factor.update(info.acceptance, self.target_acceptance)
        return NUTSTuning(factor, tuning.metric.update(state.x))

    def freeze(self, tuning):
        return NUTSTuning(tuning.factor.freeze(), tuning.metric)

    def describe(self, state, tuning):
        return {"step_size": tuning.factor.step_size}


def _blackjax() -> Any:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("blackjax")
        import blackjax
    except (ImportError, PackageNotFoundError) as error:
        raise ImportError(
            "NUTS needs BlackJAX; run pip install energax[nuts], or use ChEES(), which does not"
        ) from error
    if not found.startswith("1.7"):
        raise ImportError(
            f"NUTS needs BlackJAX 1.7, found {found}; run pip install energax[nuts], or use "
            "ChEES(), which does not"
        )
    return blackjax
