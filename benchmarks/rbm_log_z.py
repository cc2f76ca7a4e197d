"""Do both directions agree about log Z of an RBM trained on MNIST, and does an estimate agree with
the sum over all states on nltcs?

Both take their data by `--data DIR` and say so where it is absent.
"""

import math
import warnings
from pathlib import Path

import numpy as np

from benchmarks._data import BINARISED_MNIST, binarised_mnist, debd
from benchmarks._timing import Options, Report, Timing, clock, isolated

HIDDEN, EPOCHS = 500, 20
PRECISION = 0.2  # nats, on MNIST: either direction by itself needs more than both together
SEEDS = 20


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    if options.data is None:
        notes.append("No data: give the folder by --data DIR.")
    else:
        folder = str(options.data.resolve())
        epochs, seeds = (1, 4) if options.quick else (EPOCHS, SEEDS)
        _mnist(folder, epochs, options, timings, limits, notes)
        _nltcs(folder, seeds, options, timings, limits, notes)
    return Report(
        name="rbm_log_z",
        question=f"log Z of an RBM of 784 and {HIDDEN} units after {EPOCHS} epochs of PCD-5 on "
        f"binarised MNIST, from both ends; and {SEEDS} estimates on nltcs beside the exact sum.",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def _mnist(folder, epochs, options, timings, limits, notes) -> None:
    if not (Path(folder) / BINARISED_MNIST).exists():
        notes.append(f"{BINARISED_MNIST} is not in {folder}: left out.")
        return
    arguments = {"folder": folder, "epochs": epochs}
    found = isolated("benchmarks.rbm_log_z:mnist", arguments, options.threads)
    for name in ("training", "log Z"):
        wall, cpu = found[name]
        timings.append(Timing(f"MNIST, {name}", 0.0, [wall], [cpu], found["peak"]))
    gaps = found["gaps"]
    limits += [(f"MNIST: {name}, in standard errors", gap, 4.0) for name, gap in gaps.items()]
    limits.append(("MNIST: standard error of log Z", found["std_err"], PRECISION))
    notes.append(f"MNIST: {found['text']}")


def _nltcs(folder, seeds, options, timings, limits, notes) -> None:
    if not (Path(folder) / "debd" / "nltcs.npz").exists():
        notes.append(f"debd/nltcs.npz is not in {folder}: left out.")
        return
    found = isolated("benchmarks.rbm_log_z:nltcs", {"folder": folder, "seeds": seeds})
    wall, cpu = found["log Z"]
    timings.append(Timing("nltcs, one estimate", 0.0, [wall], [cpu], found["peak"]))
    limits += [
        ("nltcs: estimates whose 95 % interval misses the sum", found["missed"], seeds / 5),
        ("nltcs: mean z² of the estimates", found["square"], 2.1),
        ("nltcs: 0.4 less that mean", 0.4 - found["square"], 0.0),
        ("nltcs: estimates not called reliable", found["unreliable"], 0.0),
    ]
    notes.append(f"nltcs: {found['text']}")


def mnist(folder: str, epochs: int) -> dict:
    import energax as ex

    rows, test = (binarised_mnist(folder, (part,)) for part in ("train", "test"))
    key = ex.random.key(0)
    energy = ex.energies.BernoulliRBM.random(784, HIDDEN, key=key, data=rows)
    objective = ex.objectives.PersistentCD(num_steps=5, num_chains=100)
    options = {"num_epochs": epochs, "batch_size": 100, "learning_rate": 1e-3}
    spent = clock()
    energy = ex.fit(energy, rows, objective, key=key, **options).energy
    training = spent()
    warnings.simplefilter("ignore")
    spent = clock()
    z = ex.log_z(energy, key=ex.random.key(1), method="estimate", precision=PRECISION)
    seconds = spent()
    parts = z.details
    gaps = {}
    for name in ("forward", "reverse"):
        if name in parts:
            error = np.hypot(parts[f"{name}_std_err"], z.std_err)
            gaps[f"{name} runs alone from both together"] = abs(parts[name] - z.value) / error
    score = ex.score_samples(energy, test, key=key, log_z=z).mean()
    low, high = (math.nan if end is None else end for end in z.bracket)
    text = (
        f"log Z = {z.value:.2f} ± {z.std_err:.2f}, bracket {low:.2f} to {high:.2f}, {z.method}, "
        f"{'reliable' if z.reliable else f'UNRELIABLE: {z.reasons}'}; "
        + ", ".join(f"{k} {v:.2f}" for k, v in parts.items() if np.ndim(v) == 0)
        + f"; test log-likelihood {score.value:.2f} ± {score.std_err:.2f} nat"
    )
    return {
        "training": training,
        "log Z": seconds,
        "gaps": gaps or {"no reverse runs": 99.0},
        "std_err": float(z.std_err),
        "text": text,
    }


def nltcs(folder: str, seeds: int) -> dict:
    import energax as ex

    train, test = (debd(Path(folder) / "debd" / "nltcs.npz", part) for part in ("train", "test"))
    key = ex.random.key(0)
    energy = ex.energies.BernoulliRBM.random(train.shape[1], 24, key=key, data=train)
    energy = ex.fit(energy, train, ex.objectives.PersistentCD(num_steps=5), key=key).energy
    exact = ex.log_z(energy, key=key, method="exact")
    truth = ex.score_samples(energy, test, key=key, log_z=exact).mean().value
    z, missed, unreliable = [], 0, 0
    warnings.simplefilter("ignore")
    for seed in range(seeds):
        spent = clock()
        found = ex.log_z(energy, key=ex.random.key(seed), method="estimate")
        seconds = spent()
        mean = ex.score_samples(energy, test, key=key, log_z=found).mean()
        z.append((mean.value - truth) / found.std_err)
        # the rows are the same, so that the error of log Z is all there is
        missed += not found.lower <= exact.value <= found.upper
        unreliable += not found.reliable
    square = float(np.mean(np.square(z)))
    return {
        "log Z": seconds,
        "missed": float(missed),
        "unreliable": float(unreliable),
        "square": square,
        "text": f"test log-likelihood {truth:.4f} nat by the sum over 2^16 states; "
        f"{seeds - missed} of {seeds} intervals hold it, mean z² {square:.2f}, last standard error "
        f"{found.std_err:.4f} nat",
    }
