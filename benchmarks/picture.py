"""A noisy picture under an Ising prior: mode by minimum cut, mode by annealing, or marginals?

The minimum cut is the mode, proven; annealing looks for it; the value of each pixel that is the
likelier in the posterior's draws (maximum posterior marginals, MPM) is wrong least often on average
(Marroquin, Mitter & Poggio 1987), which is asked of pictures drawn from the prior itself, where it
is a theorem.
"""

import statistics
import warnings

import numpy as np

from benchmarks._timing import Contender, Options, Report, isolated, race, ratio

COUPLING = 0.6
SIZES, RATES = (64, 128, 256, 512), (0.1, 0.2)
CHAINS, SWEEPS = 4, 300  # of annealing and of the draws that marginals are counted in
WAYS = ("minimum cut", "annealing", "marginals")
PRIOR_SIDE, PRIOR_PICTURES, PRIOR_COUPLING, PRIOR_RATE = 48, 24, 0.46, 0.2


def run(options: Options) -> Report:
    sizes = SIZES[:2] if options.quick else SIZES
    raced = sizes[-2]
    timings = race(
        [
            Contender(
                f"{way}, {raced}×{raced}", "benchmarks.picture:job", {"way": way, "side": raced}
            )
            for way in WAYS
        ],
        options.rounds(3),
        options.threads,
    )
    lines, above = [], []
    for side in sizes:
        for rate in RATES:
            arguments = {"side": side, "rate": rate}
            found = isolated("benchmarks.picture:compared", arguments, options.threads)
            above.append(found["cut"] - found["annealed"])
            errors = ", ".join(f"{way} {100 * found[way]:.2f} %" for way in WAYS)
            seconds = ", ".join(f"{found[way + ' s']:.2f}" for way in WAYS)
            lines.append(
                f"{side}×{side}, {100 * rate:.0f} % flipped: wrong pixels {errors}; seconds "
                f"{seconds}; E annealed − E cut {found['annealed'] - found['cut']:.4g}; the cut's "
                f"gap {found['gap']:.1g}."
            )
    prior = isolated("benchmarks.picture:from_the_prior", {}, options.threads)
    return Report(
        name="picture",
        question="Seconds to clean a drawn picture with one pixel in five flipped, under an Ising "
        f"prior of K = {COUPLING} with free ends: by minimum cut, by annealing of {CHAINS} chains "
        f"for {SWEEPS} sweeps, and by marginals over {SWEEPS} sweeps of {CHAINS} chains.",
        timings=timings,
        ratios=[ratio(timings, timings[1].name, timings[0].name)],
        limits=[
            ("E of the cut above E annealed, worst case", max(above), 0.0),
            (
                "wrong pixels of MPM beside the cut's, %, pictures from the prior: mean difference "
                "plus 2 standard errors",
                prior["difference"] + 2 * prior["error"],
                0.0,
            ),
        ],
        notes=[
            *lines,
            f"{PRIOR_PICTURES} pictures {PRIOR_SIDE}×{PRIOR_SIDE} drawn from the prior at K = "
            f"{PRIOR_COUPLING}, {100 * PRIOR_RATE:.0f} % flipped: wrong pixels {prior['text']}. A "
            "drawn shape is no draw from the prior, so there MPM need not win.",
            "Seconds in the lines are of a second call, compiled; those of marginals leave out "
            "what `ex.denoise` does to judge its chains pixel by pixel.",
        ],
    )


def picture(side: int) -> np.ndarray:
    """(side, side) of ±1: a ring, a disc in it, and strokes as of writing, a few pixels wide."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    centre = np.hypot(x - 0.34, y - 0.36)
    up = (abs(centre - 0.22) < 0.04) | (centre < 0.09)
    width = max(1.5 / side, 0.012)
    for k in range(9):  # a line of text: uprights and slants by turns
        left = 0.08 + 0.095 * k
        stroke = abs(x - left - (0.05 * (y - 0.76) / 0.16 if k % 3 else 0.0)) < width
        bar = (abs(y - 0.84 + 0.08 * (k % 2)) < width) & (x > left) & (x < left + 0.05)
        up |= (stroke & (y > 0.76) & (y < 0.92)) | bar
    up |= (x > 0.68) & (x < 0.92) & (abs(y - 0.36 - 0.1 * np.sin(14 * x)) < 2 * width)
    return np.where(up, 1.0, -1.0)


def _posterior(truth: np.ndarray, rate: float, coupling: float, seed: int):
    from energax.energies import Ising

    flips = np.random.default_rng(seed).random(truth.shape) < rate
    seen = np.where(flips, -truth, truth)
    field = 0.5 * np.log((1 - rate) / rate) * seen
    return Ising.grid(truth.shape, coupling, field, periodic=False), seen


def _clean(way: str, energy, seen: np.ndarray, chains: int = CHAINS):
    """(the cleaned picture, its `Mode` or None)."""
    import jax.numpy as jnp

    from energax import random, tasks
    from energax.samplers import ColouredGibbs
    from energax.samplers._base import run_fixed

    key = random.key(0)
    if way == "marginals":
        start = jnp.broadcast_to(jnp.asarray(seen, float), (chains, *seen.shape))
        trace = run_fixed(
            ColouredGibbs(), energy, start, key=key, num_warmup=100, num_steps=SWEEPS, thin=5
        )
        mean = np.asarray(jnp.mean(trace.x, axis=(0, 1)))
        return np.where(mean > 0, 1.0, -1.0), None
    options = {} if way == "minimum cut" else {"num_chains": chains, "num_sweeps": SWEEPS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # annealing is never called reliable
        found = tasks.mode(energy, key=key, method=way, **options)
    return found.x, found


def job(way: str, side: int):
    energy, seen = _posterior(picture(side), 0.2, COUPLING, 1)
    return lambda: _clean(way, energy, seen)


def compared(side: int, rate: float) -> dict[str, float]:
    import time

    truth = picture(side)
    energy, seen = _posterior(truth, rate, COUPLING, 1)
    out = {}
    for way in WAYS:
        _clean(way, energy, seen)
        start = time.perf_counter()
        x, found = _clean(way, energy, seen)
        out[f"{way} s"] = time.perf_counter() - start
        out[way] = float((x != truth).mean())
        if found is not None:
            out["cut" if way == "minimum cut" else "annealed"] = found.energy
            out |= {"gap": found.gap} if way == "minimum cut" else {}
    return out


def from_the_prior() -> dict[str, object]:
    """Wrong pixels of the three where the prior is the truth: pictures by Swendsen and Wang."""
    import jax.numpy as jnp

    from energax import random
    from energax.energies import Ising
    from energax.samplers import SwendsenWang
    from energax.samplers._base import run_fixed

    shape = (PRIOR_SIDE, PRIOR_SIDE)
    prior = Ising.grid(shape, PRIOR_COUPLING, periodic=False)
    start = jnp.ones((PRIOR_PICTURES, *shape))
    trace = run_fixed(SwendsenWang(), prior, start, key=random.key(5), num_warmup=300, num_steps=1)
    wrong = {way: [] for way in WAYS}
    for number, truth in enumerate(np.asarray(trace.x)[0]):
        energy, seen = _posterior(truth, PRIOR_RATE, PRIOR_COUPLING, 10 + number)
        for way in WAYS:
            x, _ = _clean(way, energy, seen, 16)
            wrong[way].append(100 * float((x != truth).mean()))
    difference = np.subtract(wrong["marginals"], wrong["minimum cut"])
    return {
        "text": ", ".join(f"{way} {statistics.mean(wrong[way]):.2f} %" for way in WAYS),
        "difference": float(difference.mean()),
        "error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }
