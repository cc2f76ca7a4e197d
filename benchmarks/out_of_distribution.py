"""Does a model of handwritten digits tell other pictures from digits it has not seen?

An RBM is trained on binarised MNIST (Larochelle's split), and its energy alone, without log Z, puts
test digits below Fashion-MNIST (each pixel a bit of that probability, as the digits were made) and
below test digits of which some pixels are flipped. Area under the ROC curve, beside two scores that
need no energy: independent pixels, and the distance to the nearest of 10,000 training digits. The
data come by `--data DIR`.
"""

import gzip
import warnings
from pathlib import Path

import numpy as np

from benchmarks._data import BINARISED_MNIST, binarised_mnist
from benchmarks._timing import Options, Report, Timing, clock, isolated, say

FASHION = "fashion_mnist/t10k-images-idx3-ubyte.gz"
FLIPPED = (0.02, 0.05, 0.1)
HIDDEN, STEPS, BATCH, CHAINS, RATE = 500, 14_000, 100, 100, 0.1
NEIGHBOURS = 10_000
WANTED = 0.99


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    needed = [options.data / name for name in (BINARISED_MNIST, FASHION)] if options.data else []
    if not needed or not all(path.exists() for path in needed):
        notes.append(f"Without `--data DIR` that holds {BINARISED_MNIST} and {FASHION}: no figure.")
    else:
        say("benchmarks: out_of_distribution: training")
        arguments = {"folder": str(options.data), "steps": 500 if options.quick else STEPS}
        found = isolated("benchmarks.out_of_distribution:areas", arguments, options.threads)
        wall, cpu = found["training"]
        timings.append(
            Timing(f"training, {found['steps']:,} steps", 0, [wall], [cpu], found["peak"])
        )
        for what, area in found["areas"].items():
            notes.append(f"{what}: " + ", ".join(f"{who} {a:.4f}" for who, a in area.items()))
            limits.append((f"{what}: 1 − AUROC of the energy", 1 - area["energy"], 1 - WANTED))
        notes.append(
            "p-values of 5,000 test digits, against 5,000 others: p ≤ 0.05 in "
            f"{found['alarms']:.2%} of them, in {found['found']:.2%} of Fashion-MNIST."
        )
    return Report(
        name="out_of_distribution",
        question=f"Digits from other pictures by the energy of an RBM of {HIDDEN} hidden units, "
        f"trained on digits for {STEPS:,} steps: area under the ROC curve, 10,000 of each.",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def areas(folder: str, steps: int) -> dict:
    """{"areas": {pictures: {score: AUROC}}, ...}; every score is higher for odder pictures."""
    import optax
    from sklearn.metrics import roc_auc_score

    import energax as ex

    rows, digits = (binarised_mnist(folder, (part,)) for part in ("train", "test"))
    warnings.simplefilter("ignore")
    start = ex.energies.BernoulliRBM.random(784, HIDDEN, key=ex.random.key(0), data=rows)
    rate = optax.linear_schedule(RATE, 0.0, steps)
    spent = clock()
    fit = ex.fit(
        ex.energies.CentredRBM.of(start, rows),
        rows,
        ex.objectives.PersistentCD(num_chains=CHAINS),
        key=ex.random.key(0),
        num_steps=steps,
        batch_size=BATCH,
        optimizer=optax.sgd(rate),
        average=0.9995,
    )
    training = spent()
    energy = fit.energy.plain
    usual = np.clip(rows.mean(0, dtype=np.float64), 1e-4, 1 - 1e-4)
    near = rows[np.random.default_rng(1).permutation(len(rows))[:NEIGHBOURS]]
    scores = {
        "energy": lambda x: -np.asarray(energy.log_density(x), np.float64),
        "independent pixels": lambda x: -(x @ np.log(usual) + (1 - x) @ np.log1p(-usual)),
        "nearest digit": lambda x: _distances(x, near),
    }
    rng = np.random.default_rng(0)
    others = {"Fashion-MNIST": _fashion(Path(folder) / FASHION, rng)}
    for share in FLIPPED:
        flips = rng.random(digits.shape) < share
        others[f"digits with {share:.0%} of the pixels flipped"] = np.abs(digits - flips)
    own = {who: score(digits) for who, score in scores.items()}
    found, odd = {}, {}
    for what, pictures in others.items():
        odd[what] = {who: score(pictures) for who, score in scores.items()}
        found[what] = {
            who: float(
                roc_auc_score(
                    np.repeat([0, 1], [len(digits), len(pictures)]),
                    np.concatenate([own[who], odd[what][who]]),
                )
            )
            for who in scores
        }
    half = len(digits) // 2
    calibration = ex.tasks.Calibration.of(own["energy"][:half])
    p = calibration.p_values(own["energy"][half:])
    return {
        "areas": found,
        "training": training,
        "steps": fit.num_steps,
        "alarms": float(np.mean(p <= 0.05)),
        "found": float(np.mean(calibration.p_values(odd["Fashion-MNIST"]["energy"]) <= 0.05)),
    }


def _fashion(file: Path, rng: np.random.Generator) -> np.ndarray:
    """(10,000, 784) bits; each pixel is 1 with its grey value as probability."""
    with gzip.open(file) as opened:
        grey = np.frombuffer(opened.read()[16:], np.uint8).reshape(-1, 784) / 255
    return (rng.random(grey.shape) < grey).astype(np.float32)


def _distances(x: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Of each picture the number of pixels in which the nearest of `to` differs."""
    sums = [x[i : i + 500].sum(1)[:, None] + to.sum(1) - 2 * x[i : i + 500] @ to.T
            for i in range(0, len(x), 500)]  # fmt: skip
    return np.concatenate([each.min(1) for each in sums])
