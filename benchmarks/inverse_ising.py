"""How long does it take to find an Ising model's couplings from samples, and how well?"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks._timing import Contender, Options, Report, isolated, race, ratio

SPINS, ROWS, NEIGHBOURS, COUPLING = 64, 100_000, 3, 0.5


def run(options: Options) -> Report:
    here = "benchmarks.inverse_ising"
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "rows.npz")
        edges = isolated(f"{here}:draw", {"file": file}, options.threads)["edges"]
        ours, theirs = f"{here}:energax", f"{here}:scikit_learn"
        contenders = [
            Contender("energax", ours, {"file": file}),
            Contender("energax, graph known", ours, {"file": file, "known": True}),
            Contender("scikit-learn", theirs, {"file": file}),
        ]
        timings = race(contenders, options.rounds(2), options.threads)
        with np.load(file) as saved:
            truth = saved["truth"]
        found = {}
        for each, out in zip(contenders, ("all", "known", "sklearn"), strict=True):
            coupling = np.load(f"{file}.{out}.npy")
            found[each.name] = np.linalg.norm(coupling - truth) / np.linalg.norm(truth)
    quicker = ratio(timings, "scikit-learn", "energax", at_least=10.0)
    return Report(
        name="inverse_ising",
        question=f"Couplings of {SPINS} spins on a random graph of {edges} edges, J = "
        f"±{COUPLING}, h ~ N(0, 0.2²), from {ROWS:,} samples: all {SPINS * (SPINS - 1) // 2} "
        "couplings by pseudo-likelihood, float32, beside a logistic regression for each spin.",
        timings=timings,
        ratios=[quicker, ratio(timings, "scikit-learn", "energax, graph known")],
        limits=[
            (
                "relative error of the couplings, energax / scikit-learn",
                found["energax"] / found["scikit-learn"],
                1.05,
            )
        ],
        notes=[
            *(
                f"{name}: ‖Ĵ − J‖ / ‖J‖ = {error:.4f} over all pairs"
                for name, error in found.items()
            ),
            "energax runs its whole `fit` with optimizer='lbfgs', from independent spins to where "
            "it settles; checks of the data included.",
            "scikit-learn: LogisticRegression as it comes (C = 1, lbfgs), one a spin, the two "
            "estimates of each coupling averaged.",
        ],
    )


def draw(file: str) -> dict:
    """Writes rows, (ROWS, SPINS), and the true couplings."""
    import energax as ex

    rng = np.random.default_rng(0)
    edges = np.argwhere(np.triu(rng.random((SPINS, SPINS)) < NEIGHBOURS / SPINS, 1))
    couplings = rng.choice([-COUPLING, COUPLING], len(edges))
    model = ex.energies.Ising(edges, couplings, rng.normal(0, 0.2, SPINS), num_sites=SPINS)
    draws = ex.sample(model, ROWS, key=ex.random.key(0))
    if not draws.reliable:
        raise RuntimeError(f"the samples are not to be trusted: {draws.reasons}")
    truth = np.zeros((SPINS, SPINS))
    truth[edges[:, 0], edges[:, 1]] = truth[edges[:, 1], edges[:, 0]] = couplings
    rows = draws.x.reshape(ROWS, SPINS).astype(np.float32)
    np.savez(file, rows=rows, truth=truth, edges=edges)
    return {"edges": len(edges)}


def energax(file: str, known: bool = False):
    import energax as ex

    with np.load(file) as saved:
        rows, edges = saved["rows"], saved["edges"]
    space = ex.Spin((SPINS,))

    def fit():
        start = ex.energies.BoltzmannMachine.zeros(space, rows)
        if known:
            start = ex.energies.Ising(edges, 0.0, start.fields, space=space)
        objective = ex.objectives.PseudoLikelihood()
        run = ex.fit(start, rows, objective, key=ex.random.key(0), optimizer="lbfgs")
        couplings = np.asarray(run.energy.couplings)
        coupling = np.zeros((SPINS, SPINS), couplings.dtype)
        i, j = np.asarray(run.energy.edges).T
        coupling[i, j] = coupling[j, i] = couplings
        np.save(f"{file}.{'known' if known else 'all'}.npy", coupling)

    return fit


def scikit_learn(file: str):
    from sklearn.linear_model import LogisticRegression

    with np.load(file) as saved:
        rows = saved["rows"]

    def fit():
        coupling = np.zeros((SPINS, SPINS))
        for spin in range(SPINS):
            others = np.delete(np.arange(SPINS), spin)
            regression = LogisticRegression().fit(rows[:, others], rows[:, spin] > 0)
            coupling[spin, others] = regression.coef_[0] / 2  # log-odds are twice the field
        np.save(f"{file}.sklearn.npy", (coupling + coupling.T) / 2)

    return fit
