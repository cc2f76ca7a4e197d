"""Three posteriors written by hand as log-densities, against the gold draws of posteriordb."""

import json
from pathlib import Path

import numpy as np

from benchmarks._timing import Options, Report, Timing, say

NAMES = {  # our function: (gold draws, data)
    "eight_schools": ("eight_schools-eight_schools_noncentered", "data_eight_schools"),
    "kidiq": ("kidiq-kidscore_momiq", "data_kidiq"),
    "gauss_mix": ("low_dim_gauss_mix-low_dim_gauss_mix", "data_low_dim_gauss_mix"),
}


def run(options: Options) -> Report:
    folder = None if options.data is None else options.data / "posteriordb"
    if folder is None or not folder.is_dir():
        raise FileNotFoundError("give the folder that holds posteriordb/ by --data")
    limits, timings, notes = [], [], []
    for name, (gold, data) in NAMES.items():
        found, timing, note = compare(name, folder / f"{gold}.npz", folder / f"{data}.json")
        limits += found
        timings.append(timing)
        notes.append(note)
        say("  " + note)
    return Report(
        name="posteriordb",
        question="Means and sds of three posteriors, and how many standard errors they are from "
        "those of the gold draws (both sides' errors counted; 4.5 allowed).",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=[*notes, "Times are of one call of sample, compilation included."],
    )


def compare(name: str, gold: Path, data: Path):
    """(limits, timing, note) of one posterior."""
    import time

    import energax as ex
    from energax.diagnostics import mcse_mean, mcse_sd
    from energax.samplers import ChEES, Transformed

    energy, show = globals()[name](json.loads(data.read_text()))
    wall, cpu = time.perf_counter(), time.process_time()
    draws = ex.sample(
        energy, 40_000, key=ex.random.key(0), sampler=Transformed(ChEES(target_acceptance=0.9))
    )
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ours = show(draws.x)
    with np.load(gold, allow_pickle=False) as file:
        theirs, names = file["draws"], [str(n) for n in file["names"]]
    limits = []
    for what, mean, error in (
        ("mean", lambda x: x.mean((0, 1)), mcse_mean),
        ("sd", lambda x: x.std((0, 1), ddof=1), mcse_sd),
    ):
        off = np.abs(mean(ours) - mean(theirs)) / np.hypot(error(ours), error(theirs))
        for i, parameter in enumerate(names):
            value, wanted = mean(ours)[i], mean(theirs)[i]
            limits.append((f"{name} {parameter} {what} {value:.4g} ({wanted:.4g})", off[i], 4.5))
    told = "reliable" if draws.reliable else f"unreliable: {'; '.join(draws.reasons)}"
    note = (
        f"{name}: {draws.num_chains} chains × {draws.num_steps:,} steps, worst bulk ESS "
        f"{min(np.min(e) for e in draws.ess_bulk.values()):,.0f}, {draws.num_divergent} divergent, "
        f"{told}; worst {max(off for _, off, _ in limits):.1f} standard errors off"
    )
    return limits, Timing(name, 0.0, [wall], [cpu], 0.0), note


def _normal(x, mean, sd):
    import jax.numpy as jnp

    return -0.5 * ((x - mean) / sd) ** 2 - jnp.log(sd)


def eight_schools(data):
    """Noncentred: y ~ N(mu + tau t, sigma), t ~ N(0, 1), mu ~ N(0, 5), tau ~ Cauchy⁺(0, 5)."""
    import jax.numpy as jnp

    from energax.energies import from_log_density
    from energax.spaces import Box, Real, Record

    y, sigma = jnp.asarray(data["y"], float), jnp.asarray(data["sigma"], float)

    def f(x):
        theta = x["mu"] + x["tau"] * x["t"]
        prior = -0.5 * jnp.sum(x["t"] ** 2) - 0.5 * (x["mu"] / 5) ** 2
        return prior - jnp.log1p((x["tau"] / 5) ** 2) + jnp.sum(_normal(y, theta, sigma))

    def show(x):
        theta = x["mu"][..., None] + x["tau"][..., None] * x["t"]
        return np.concatenate([theta, x["mu"][..., None], x["tau"][..., None]], -1).astype(float)

    return from_log_density(f, Record(t=Real((8,)), mu=Real(()), tau=Box(0.0, np.inf))), show


def kidiq(data):
    """score ~ N(beta₁ + beta₂ iq, sigma), sigma ~ Cauchy⁺(0, 2.5), beta flat."""
    import jax.numpy as jnp

    from energax.energies import from_log_density
    from energax.spaces import Box, Real, Record

    score, iq = (np.asarray(data[k], float) for k in ("kid_score", "mom_iq"))
    score, iq, centre = jnp.asarray(score), jnp.asarray(iq - iq.mean()), iq.mean()

    def f(x):  # about the mean IQ, where the two coefficients hardly depend on each other
        fit = x["middle"] + x["slope"] * iq
        return jnp.sum(_normal(score, fit, x["sigma"])) - jnp.log1p((x["sigma"] / 2.5) ** 2)

    def show(x):
        x = {k: np.asarray(v, float) for k, v in x.items()}
        return np.stack([x["middle"] - centre * x["slope"], x["slope"], x["sigma"]], -1)

    space = Record(middle=Real(()), slope=Real(()), sigma=Box(0.0, np.inf))
    return from_log_density(f, space), show


def gauss_mix(data):
    """y ~ θ N(mu₁, s₁) + (1 − θ) N(mu₂, s₂), mu₁ < mu₂ and s > 0 ~ N(0, 2), θ ~ Beta(5, 5)."""
    import jax.numpy as jnp

    from energax.energies import from_log_density
    from energax.spaces import Box, Real, Record

    y = jnp.asarray(data["y"], float)

    def f(x):
        mu = jnp.stack([x["low"], x["low"] + x["gap"]])
        theta, sigma = x["theta"], x["sigma"]
        prior = -0.125 * (jnp.sum(mu**2) + jnp.sum(sigma**2))
        prior += 4 * (jnp.log(theta) + jnp.log1p(-theta))
        first = jnp.log(theta) + _normal(y, mu[0], sigma[0])
        return prior + jnp.sum(
            jnp.logaddexp(first, jnp.log1p(-theta) + _normal(y, mu[1], sigma[1]))
        )

    def show(x):
        x = {k: np.asarray(v, float) for k, v in x.items()}
        columns = [x["low"], x["low"] + x["gap"], *np.moveaxis(x["sigma"], -1, 0), x["theta"]]
        return np.stack(columns, -1)

    space = Record(
        low=Real(()),
        gap=Box(0.0, np.inf),
        sigma=Box([0.0, 0.0], [np.inf, np.inf]),
        theta=Box(0.0, 1.0),
    )
    return from_log_density(f, space), show
