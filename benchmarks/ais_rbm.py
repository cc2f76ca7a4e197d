"""How long is a temperature of annealed importance sampling on an RBM of 784 and 500 units?"""

import numpy as np

from benchmarks._timing import Contender, Options, Report, race, ratio

VISIBLE, HIDDEN, CHAINS, SCHEDULE = 784, 500, 100, 14_500
STEPS = 288  # of the schedule's temperatures, in one repetition


def run(options: Options) -> Report:
    here = "benchmarks.ais_rbm"
    contenders = [
        Contender("energax", f"{here}:energax"),
        Contender("its two products alone", f"{here}:products"),
        Contender("rbms", f"{here}:rbms"),
        Contender("ebmkit", f"{here}:ebmkit"),
    ]
    timings = race(contenders, options.rounds(5), options.threads)
    each = {t.name: 1e3 * t.cpu_median / STEPS for t in timings}
    whole = SCHEDULE * each["energax"] / 1e3
    return Report(
        name="ais_rbm",
        question=f"{STEPS} of {SCHEDULE:,} temperatures of AIS on a Bernoulli RBM "
        f"{VISIBLE}-{HIDDEN}, {CHAINS} chains, one sweep at each, float32.",
        timings=timings,
        ratios=[
            ratio(timings, "energax", "its two products alone", at_most=2.0, clock="cpu"),
            ratio(timings, "rbms", "energax", at_least=3.0, clock="cpu"),
            ratio(timings, "ebmkit", "energax", at_least=3.0, clock="cpu"),
        ],
        notes=[
            "CPU milliseconds a temperature: "
            + ", ".join(f"{name} {value:.2f}" for name, value in each.items())
            + f"; the whole schedule takes energax {whole:.0f} CPU s.",
            "The products alone are v'W and hWᵀ of the same sizes, each input hanging on the "
            "output before it.",
            "rbms by its compute_partition_function_ais; ebmkit by its ais_log_z from a Bernoulli "
            "base with its GibbsWithGradients kernel: its block Gibbs refuses tempered energies.",
        ],
    )


def parameters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weight, visible bias, hidden bias) like those of an RBM trained on handwritten digits."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.15, (VISIBLE, HIDDEN)).astype(np.float32)
    visible_bias = rng.normal(-2, 1, VISIBLE).astype(np.float32)
    return weight, visible_bias, rng.normal(-1, 0.5, HIDDEN).astype(np.float32)


def energax():
    import jax.numpy as jnp

    from energax import random
    from energax.energies import BernoulliRBM, IndependentBernoulli
    from energax.partition.estimated.annealed import Schedule, anneal
    from energax.samplers import BlockGibbs

    energy = BernoulliRBM(*parameters())
    path = energy.path(IndependentBernoulli(energy.space, energy.visible_bias))
    schedule = Schedule(jnp.array([0.0, 1.0]), None, jnp.ones(1))
    betas = np.linspace(0, 1, SCHEDULE + 1)[SCHEDULE // 2 : SCHEDULE // 2 + STEPS + 1]
    x = path.draw(CHAINS, key=random.key(0))

    return lambda: anneal(path, BlockGibbs(), schedule, x, betas, key=random.key(1))


def products():
    import jax
    import jax.numpy as jnp

    w = jnp.asarray(parameters()[0])
    v = jnp.asarray(np.random.default_rng(1).random((CHAINS, VISIBLE)) < 0.2, jnp.float32)

    @jax.jit
    def loop(v):
        # Each product's input hangs on the one before it; the factor keeps it finite.
        return jax.lax.fori_loop(0, STEPS, lambda _, v: 1e-3 * ((1e-3 * (v @ w)) @ w.T), v)

    return lambda: loop(v).block_until_ready()


def rbms():
    import torch
    from rbms.bernoulli_bernoulli.classes import BBRBM
    from rbms.partition_function.ais import compute_partition_function_ais

    weight, visible_bias, hidden_bias = map(torch.from_numpy, parameters())
    model = BBRBM(weight_matrix=weight, vbias=visible_bias, hbias=hidden_bias)

    def estimate():
        with torch.no_grad():
            compute_partition_function_ais(CHAINS, STEPS + 1, model)

    return estimate


def ebmkit():
    import ebm
    import torch

    weight, visible_bias, hidden_bias = map(torch.from_numpy, parameters())
    model = ebm.nets.RBM(VISIBLE, HIDDEN)
    with torch.no_grad():
        model.W.copy_(weight.T)
        model.b.copy_(visible_bias)
        model.c.copy_(hidden_bias)
    logits = visible_bias.clone()
    base = torch.distributions.Independent(
        torch.distributions.Bernoulli(logits=logits, validate_args=False), 1, validate_args=False
    )
    sampler = ebm.samplers.GibbsWithGradients()

    def estimate():
        ebm.ais_log_z(model, (VISIBLE,), base=base, n_temps=STEPS, n_chains=CHAINS, sampler=sampler)

    return estimate
