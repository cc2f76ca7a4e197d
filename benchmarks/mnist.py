"""How good do Boltzmann machines of MNIST get within an hour of one core?

An RBM and a deep Boltzmann machine of the binarised digits (Larochelle's split) by likelihood.
Steps, rates and penalties were chosen on the validation rows. The data come by `--data DIR` and are
named where absent.
"""

from typing import Any

from benchmarks._boltzmann import BATCH, trained
from benchmarks._data import BINARISED_MNIST, binarised_mnist
from benchmarks._timing import Options, Report, Timing, clock, isolated, say

HIDDEN, DEEP = 500, (500, 1000)
MINUTES = {"rbm": 20.0, "dbm": 30.0}  # of training; log Z comes after
CHAINS = 100
JOBS = {
    # name: (what is measured, to reach, published)
    "rbm": ("test log-likelihood, nats", -84.5, "RBM, CD-25: -86.34"),
    "dbm": ("bound on the test log-likelihood, nats", -84.0, "DBM: -84.62"),
}


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    there = options.data is not None and (options.data / BINARISED_MNIST).exists()
    if not there:
        notes.append(f"No data: give the folder that holds {BINARISED_MNIST} by --data DIR.")
    for name, (what, goal, published) in JOBS.items() if there else ():
        minutes = 0.5 if options.quick else MINUTES[name]
        arguments = {"folder": str(options.data.resolve()), "minutes": minutes}
        found = isolated(f"benchmarks.mnist:{name}", arguments, options.threads)
        wall, cpu = found["training"]
        timings.append(Timing(f"{name}, training", 0.0, [wall], [cpu], found["peak"]))
        line = (
            f"{name}: OURS {found['value']:.2f} [{found['lower']:.2f}, {found['upper']:.2f}] "
            f"{what}; published: {published}; to reach {goal:g}; {wall / 60:.1f} minutes of "
            f"training; {found['text']}"
        )
        say(line)
        notes.append(line)
        if found["reliable"]:
            limits.append((f"{name}: short of {goal:g}", max(0.0, goal - found["value"]), 0.0))
        else:  # a number that may be anything reaches nothing
            limits.append((f"{name}: figures that can't be trusted", 1.0, 0.0))
    return Report(
        name="mnist",
        question=f"Boltzmann machines of MNIST: an RBM of {HIDDEN} hidden units, a DBM of "
        f"{DEEP[0]} and {DEEP[1]}, after "
        f"{', '.join(f'{m:g}' for m in MINUTES.values())} minutes of training.",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def rbm(folder: str, minutes: float) -> dict:
    """Persistent chains in centred parameters; averaged weights; log Z by annealing both ways."""
    import energax as ex

    rows, test = binarised_mnist(folder)
    start = ex.energies.BernoulliRBM.random(784, HIDDEN, key=ex.random.key(0), data=rows)
    centred = ex.energies.CentredRBM.of(start, rows)
    objective = ex.objectives.PersistentCD(num_chains=CHAINS)
    fit, spent = trained(centred, rows, objective, minutes, learning_rate=0.1, l2=7e-4)
    energy = fit.energy.plain
    z = ex.log_z(energy, key=ex.random.key(1))
    score = ex.score_samples(energy, test, key=ex.random.key(1), log_z=z).mean()
    return _likelihood(score, z, fit, spent)


def dbm(folder: str, minutes: float) -> dict:
    """Layer by layer for a quarter of the time, then all of it by mean-field PCD, centred."""
    import energax as ex

    rows, test = binarised_mnist(folder)
    spent = clock()
    energy = ex.pretrain(
        rows,
        DEEP,
        key=ex.random.key(0),
        num_epochs=100,
        batch_size=BATCH,
        learning_rate=1e-3,
        max_seconds=60 * minutes / 8,
    )
    begun = spent()
    objective = ex.objectives.MeanFieldPCD(num_steps=1, num_chains=CHAINS, num_updates=5)
    left = minutes - begun[0] / 60
    centred = ex.energies.CentredDBM.of(energy, rows)
    fit, rest = trained(centred, rows, objective, left, learning_rate=0.05, l2=2e-4)
    energy = fit.energy.plain
    z = ex.log_z(energy, key=ex.random.key(1))
    bound = ex.variational_bound(energy, test, key=ex.random.key(1), log_z=z).mean()
    return _likelihood(bound, z, fit, (begun[0] + rest[0], begun[1] + rest[1]))


def _likelihood(score: Any, z: Any, fit: Any, spent: tuple[float, float]) -> dict:
    return {
        "training": spent,
        "value": float(score.value),
        "reliable": bool(score.reliable),
        "lower": float(score.lower),
        "upper": float(score.upper),
        "text": f"log Z {z.value:.2f} ± {z.std_err:.2f} by {z.method}, "
        f"{'reliable' if score.reliable else f'UNRELIABLE: {z.reasons}'}; {fit.num_steps:,} steps"
        + (", cut short by the clock" if fit.time_limited else "")
        + "".join(f"; the training: {reason}" for reason in fit.reasons),
    }
