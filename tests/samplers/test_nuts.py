"""BlackJAX's NUTS on our loop and keys: exact starts stay exact."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import energax.random as random
from energax.energies import Tempered, from_log_density
from energax.samplers import NUTS
from energax.samplers._base import run
from energax.spaces import Real, Record
from tests.exact import P_LIMIT, after_steps, ks

NUM = 10_000


def f(x):
    """first ~ Gumbel, second | first ~ N(0.7 first, 0.6²)."""
    first, second = x["first"][0], x["second"]
    return -first - jnp.exp(-first) - 0.5 * ((second - 0.7 * first) / 0.6) ** 2


ENERGY = from_log_density(f, Record(first=Real((1,)), second=Real(())))


def draw(num, seed):
    rng = np.random.default_rng(seed)
    first = rng.gumbel(size=(num, 1))
    second = 0.7 * first[:, 0] + 0.6 * rng.normal(size=num)
    return {"first": first.astype(np.float32), "second": second.astype(np.float32)}


def test_the_target_is_kept_and_a_wrong_one_is_not():
    sampler = NUTS(max_doublings=4, dense=True)
    few = jax.tree.map(jnp.asarray, draw(16, 1))
    state, tuning = sampler.init(ENERGY, few, key=random.key(0))
    _, tuning, trace = run(
        sampler, ENERGY, state, tuning, key=random.key(1), num_steps=200, adapt=True, keep=False
    )
    assert float(trace.evaluations.mean()) > 1

    def p_value(beta):
        x = after_steps(
            sampler,
            Tempered(ENERGY, beta),
            draw(NUM, 2),
            key=random.key(3),
            num_steps=6,
            tuning=tuning,
        )
        residual = (x["second"] - 0.7 * x["first"][:, 0]) / 0.6
        return 2 * min(ks(x["first"], stats.gumbel_r.cdf), ks(residual, stats.norm.cdf))

    assert p_value(1.0) > P_LIMIT
    assert p_value(0.8) < 1e-9


def test_without_blackjax_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "blackjax":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install energax\[nuts\]"):
        NUTS()
