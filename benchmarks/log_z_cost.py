"""What does log Z cost, by dimension and by accuracy, with each method?"""

import math
import time
import warnings

from benchmarks._timing import Options, Report, Timing, isolated, say

DIMENSIONS = (2, 10, 100, 1_000, 10_000)
PRECISIONS = (0.3, 0.03)
METHODS = ("exact", "ais", "bridge", "mbar", "thermodynamic integration", "smc")
MAX_SECONDS = 15.0
COMPILING = 60.0  # seconds more for a first call
KINDS = ("logistic", "bits")


def run(options: Options) -> Report:
    return costs(
        "log_z_cost",
        "CPU seconds and energy evaluations of one log Z of a plain function, compiling apart, by "
        f"dimension, by the standard error asked for and by method; at most {MAX_SECONDS:g} s each "
        "and no dimension beyond one at which a method is of no use.",
        KINDS,
        METHODS,
        options,
    )


def costs(
    name: str, question: str, kinds: tuple[str, ...], methods: tuple[str, ...], options: Options
) -> Report:
    """Every method on every kind of target, in more and more dimensions."""
    dimensions = DIMENSIONS[:2] if options.quick else DIMENSIONS
    timings, notes, wrong = [], [], 0
    for kind in kinds:
        notes.append(f"{kind}: {_DOCUMENTED[kind]}")
        for method in methods:
            for d in dimensions:
                arguments = {"kind": kind, "d": d, "method": method}
                rows = isolated("benchmarks.log_z_cost:measure", arguments, options.threads)
                for row in rows["rows"]:
                    timings.append(
                        Timing(
                            f"{kind}, d = {d:,}, {method}, to {row['precision']:g}",
                            rows["first"],
                            [row["wall"]],
                            [row["cpu"]],
                            rows["peak"],
                        )
                    )
                    allowed = max(4 * row["std_err"], 0.05 + 1e-5 * abs(row["truth"]))
                    off = abs(row["error"]) > allowed
                    wrong += bool(off and row["reliable"])
                    say(f"{timings[-1].name}: {row}")
                    notes.append(
                        f"{timings[-1].name}: {row['error']:+.3f} ± {row['std_err']:.3f}, "
                        f"{row['evaluations']:,} evaluations, "
                        + ("reliable" if row["reliable"] else f"unreliable ({row['reason']})")
                    )
                if not any(row["reliable"] for row in rows["rows"]):
                    notes.append(f"{kind}, {method}: no use at d = {d:,}, not asked beyond")
                    break
    return Report(
        name=name,
        question=question,
        timings=timings,
        ratios=[],
        limits=[("wrong answers called reliable", float(wrong), 0.0)],
        notes=notes,
    )


_DOCUMENTED = {
    "logistic": "d coupled reals, Σ logistic(x_i − 0.8 x_{i−1}), a chain whose log Z is 0",
    "bits": "d coupled bits in a ring, log Z by its transfer matrix",
    "ring": "the same as an Ising model, whose edges the methods know",
    "rbm": "an RBM of d visible and 12 hidden bits, log Z by a sum over the hidden ones in NumPy",
}


def problem(kind: str, d: int):
    """(energy, log Z)."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import energax as ex

    if kind == "logistic":

        def f(x):
            y = x - 0.8 * jnp.concatenate([jnp.zeros(1), x[:-1]])
            return -jnp.sum(y + 2 * jax.nn.softplus(-y))

        return ex.from_log_density(f, ex.Real((d,))), 0.0
    if kind == "rbm":
        rng = np.random.default_rng(0)
        weight, visible = rng.normal(0, 2 / math.sqrt(d), (d, 12)), rng.normal(-0.3, 0.5, d)
        hidden = rng.normal(-0.3, 0.5, 12)
        h = (np.arange(2**12)[:, None] >> np.arange(12)) & 1
        f = [c @ hidden + np.logaddexp(0, visible + weight @ c).sum() for c in h]
        return ex.energies.BernoulliRBM(weight, visible, hidden), float(np.logaddexp.reduce(f))
    coupling, field = 1.2, -0.4
    half = math.exp(field / 2)
    transfer = np.array([[1.0, half], [half, math.exp(field + coupling)]])
    values = np.linalg.eigvalsh(transfer)
    log_z = d * math.log(values[1]) + math.log1p((values[0] / values[1]) ** d)
    if kind == "ring":  # x = (s + 1)/2
        ends = np.arange(d if d > 2 else 1)  # two sites are joined twice, by one edge
        edges, each = np.stack([ends, (ends + 1) % d], 1), coupling / 4 * d / len(ends)
        ising = ex.energies.Ising(edges, each, field / 2 + coupling / 2, num_sites=d)
        return ising, log_z - d * (coupling / 4 + field / 2)
    energy = ex.from_log_density(
        lambda x: coupling * jnp.sum(x * jnp.roll(x, 1)) + field * jnp.sum(x), ex.Binary((d,))
    )
    return energy, log_z


def measure(kind: str, d: int, method: str) -> dict:
    """One answer for each precision, until one is missed; a first call of the same key compiles."""
    import energax as ex

    energy, truth = problem(kind, d)
    warnings.simplefilter("ignore")

    def once(precision, max_seconds):
        wall, cpu = time.perf_counter(), time.process_time()
        z = ex.log_z(
            energy,
            key=ex.random.key(1),
            method=method,
            precision=precision,
            max_seconds=max_seconds,
        )
        return z, time.perf_counter() - wall, time.process_time() - cpu

    try:
        _, first, _ = once(max(PRECISIONS), MAX_SECONDS + COMPILING)
    except ValueError:  # no exact method fits
        return {"first": 0.0, "rows": []}
    rows = []
    for precision in PRECISIONS:
        z, wall, cpu = once(precision, MAX_SECONDS)
        rows.append(
            {
                "precision": precision,
                "wall": wall,
                "cpu": cpu,
                "error": float(z.value) - truth,
                "truth": truth,
                "std_err": float(z.std_err),
                "evaluations": z.num_evaluations,
                "reliable": bool(z.reliable),
                "reason": z.reasons[0] if z.reasons else "",
            }
        )
        if z.std_err == 0 or not z.reliable:
            break
    return {"first": first - rows[0]["wall"], "rows": rows}
