"""How long do energax and nested sampling take to the same standard error of log Z?"""

import math
import time

import numpy as np

from benchmarks._timing import Options, Report, Timing, isolated, ratio

NAMES = ("modes_2d", "banana_4d", "mixture_5d", "logistic_10d", "student_20d")
LIVE = 500  # points of nested sampling


def run(options: Options) -> Report:
    names = NAMES[:2] if options.quick else NAMES
    timings, ratios, notes, behind = [], [], [], 0
    for name in names:
        peer = isolated("benchmarks.nested_sampling:dynesty", {"name": name}, options.threads)
        ours = isolated(
            "benchmarks.nested_sampling:energax",
            {"name": name, "precision": peer["std_err"]},
            options.threads,
        )
        pair = [_timing(f"energax, {name}", ours), _timing(f"dynesty, {name}", peer)]
        timings += pair
        ratios.append(ratio(pair, pair[1].name, pair[0].name, clock="cpu"))
        behind += ratios[-1].cpu < 1 or not ours["reliable"]
        notes.append(
            f"{name}: energax {ours['error']:+.4f} ± {ours['std_err']:.4f} nat by "
            f"{ours['method']}{'' if ours['reliable'] else ' (UNRELIABLE)'}, dynesty "
            f"{peer['error']:+.4f} ± {peer['std_err']:.4f}"
        )
    return Report(
        name="nested_sampling",
        question="CPU seconds of one log Z with its default method, asked for the standard error "
        f"that dynesty reaches with {LIVE} live points, on densities in a box of known Z.",
        timings=timings,
        ratios=ratios,
        limits=[("targets of five on which energax is behind", float(behind), 1.0)],
        notes=[*notes, "energax's second call, so that compiling is told apart; it checks itself."],
    )


def _timing(name: str, found: dict) -> Timing:
    first, wall, cpu, peak = (found[key] for key in ("first", "wall", "cpu", "peak"))
    return Timing(name, first, wall, cpu, peak)


def problem(name: str, np=np):
    """(f of one point in the arithmetic of `np`, dimension, half the side of the box, log Z)."""
    if name == "modes_2d":
        centres = 4.0 * np.asarray([[i, j] for i in range(-2, 3) for j in range(-2, 3)])

        def f(x):
            return _log_sum(np, -0.5 * np.sum((x - centres) ** 2, -1) / 0.16)

        return f, 2, 12.0, math.log(25 * 2 * math.pi * 0.16)
    if name == "banana_4d":

        def f(x):
            a, b = x[:2], x[2:]
            return -0.5 * np.sum(a**2) - 0.5 * np.sum((b - a**2) ** 2) / 0.25

        return f, 4, 30.0, 4 * 0.5 * math.log(2 * math.pi) + 2 * math.log(0.5)
    if name == "mixture_5d":
        centres = np.asarray([[3.0] * 5, [-3.0] * 5, [3.0, -3.0, 3.0, -3.0, 3.0]])
        log_w = np.log(np.asarray([0.5, 0.3, 0.2]))

        def f(x):
            return _log_sum(np, log_w - 0.5 * np.sum((x - centres) ** 2, -1))

        return f, 5, 10.0, 2.5 * math.log(2 * math.pi)
    if name == "logistic_10d":
        return lambda x: -np.sum(x + 2 * np.logaddexp(0.0, -x)), 10, 60.0, 0.0
    if name == "student_20d":
        freedom, d = 30.0, 20

        def f(x):
            return -0.5 * (freedom + d) * np.log1p(np.sum(x**2) / freedom)

        log_z = math.lgamma(freedom / 2) - math.lgamma((freedom + d) / 2)
        return f, d, 20.0, log_z + d / 2 * math.log(freedom * math.pi)
    raise ValueError(f"no such density: {name!r}")


def _log_sum(np, a):
    top = np.max(a)
    return top + np.log(np.sum(np.exp(a - top)))


def energax(name: str, precision: float) -> dict:
    import warnings

    import jax.numpy as jnp

    import energax as ex

    f, d, side, truth = problem(name, jnp)
    energy = ex.from_log_density(f, ex.Box(-side, side, (d,)))
    warnings.simplefilter("ignore")
    calls = []
    for seed in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        z = ex.log_z(energy, key=ex.random.key(seed), precision=max(precision, 1e-4))
        calls.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        "first": calls[0][0] - calls[1][0],
        "wall": [calls[1][0]],
        "cpu": [calls[1][1]],
        "std_err": float(z.std_err),
        "error": float(z.value) - truth,
        "method": z.method,
        "reliable": bool(z.reliable),
    }


def dynesty(name: str) -> dict:
    from dynesty import NestedSampler

    f, d, side, truth = problem(name)
    wall, cpu = time.perf_counter(), time.process_time()
    sampler = NestedSampler(
        f, lambda u: side * (2 * u - 1), d, nlive=LIVE, rstate=np.random.default_rng(0)
    )
    sampler.run_nested(print_progress=False)
    results = sampler.results
    return {
        "first": 0.0,
        "wall": [time.perf_counter() - wall],
        "cpu": [time.process_time() - cpu],
        "std_err": float(results.logzerr[-1]),
        "error": float(results.logz[-1]) + d * math.log(2 * side) - truth,
        "method": "nested sampling",
        "reliable": True,
    }
