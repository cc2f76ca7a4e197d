"""How close are filled gaps to what stood there, beside scikit-learn's imputers?

A fifth of the values of ADBench's tables is hidden at random. `EnergyImputer` and scikit-learn's
`IterativeImputer`, `KNNImputer` and `SimpleImputer`, each with its defaults, are fitted to the
table with gaps and fill it; and our 95 % intervals are asked how many of the hidden values they
hold. The tables of CHOSEN were named before any figure was seen, the others are shown apart. Tables
come by `--data DIR`.
"""

import warnings
from typing import Any

import numpy as np

from benchmarks._data import NO_TABLES, adbench, table_of
from benchmarks._timing import Options, Report, clock, isolated, say

CHOSEN = ("6_cardio", "20_letter", "31_satimage-2")
OTHERS = ("2_annthyroid", "4_breastw", "18_Ionosphere", "29_Pima", "38_thyroid", "45_wine")
OURS = "EnergyImputer"
PEERS = ("IterativeImputer", "KNNImputer", "SimpleImputer")
HIDDEN, MASKS = 0.2, 2


def run(options: Options) -> Report:
    limits: list[tuple[str, float, float]] = []
    notes: list[str] = []
    folder = adbench(options.data)
    if folder is None:
        notes.append(NO_TABLES)
    else:
        found = {}
        for name in (CHOSEN[0], OTHERS[0]) if options.quick else (*CHOSEN, *OTHERS):
            say(f"benchmarks: imputing: {name}")
            arguments = {
                "file": str(folder / f"{name}.npz"),
                "masks": 1 if options.quick else MASKS,
            }
            found[name] = isolated("benchmarks.imputing:errors", arguments, options.threads)
            notes.append(f"{name}: {_line(found[name])}")
        for group, names in (("chosen", CHOSEN), ("other", OTHERS)):
            tables = [found[name] for name in names if name in found]
            mean = {who: np.mean([t["error"][who] for t in tables]) for who in (OURS, *PEERS)}
            notes.append(
                f"mean over {len(tables)} {group} tables: "
                + ", ".join(f"{who} {error:.3f}" for who, error in mean.items())
            )
            if group == "chosen":
                for peer in PEERS:
                    ratio = float(mean[OURS] / mean[peer])
                    limits.append((f"error of ours over that of {peer}, means", ratio, 1.0))
    return Report(
        name="imputing",
        question=f"Root mean square error of filled values, {HIDDEN:.0%} of each table hidden at "
        f"random, columns of standard deviation 1; means of {MASKS} masks.",
        timings=[],
        ratios=[],
        limits=limits,
        notes=notes,
    )


def _line(found: dict[str, Any]) -> str:
    each = (
        f"{who} {found['error'][who]:.3f} ({found['seconds'][who]:.2g} CPU s)"
        for who in (OURS, *PEERS)
    )
    return f"{', '.join(each)}; our 95 % intervals hold {found['held']:.1%}"


def imputer(name: str, seed: int) -> Any:
    if name == OURS:
        from energax.estimators import EnergyImputer

        return EnergyImputer(random_state=seed)
    from sklearn import impute
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401

    return getattr(impute, name)(**({"random_state": seed} if name.startswith("Iter") else {}))


def errors(file: str, masks: int) -> dict[str, Any]:
    """{"error": {imputer: RMSE}, "seconds": {imputer: CPU}, "held": share in our intervals}."""
    rows, _ = table_of(file)
    rows = (rows - rows.mean(0)) / rows.std(0)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (OURS, *PEERS)}
    held = []
    for seed in range(masks):
        hidden = np.random.default_rng(seed).random(rows.shape) < HIDDEN
        hidden[hidden.all(1), 0] = False
        gaps = np.where(hidden, np.nan, rows)
        for name in found:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                spent = clock()
                fitted = imputer(name, seed).fit(gaps)
                filled = fitted.transform(gaps)
            error = float(np.sqrt(np.mean((filled - rows)[hidden] ** 2)))
            found[name].append((error, spent()[1]))
            if name == OURS:
                low, high = fitted.intervals(gaps)
                held.append(float(((low <= rows) & (rows <= high))[hidden].mean()))
    error = {name: float(np.mean([run[0] for run in runs])) for name, runs in found.items()}
    seconds = {name: float(np.median([run[1] for run in runs])) for name, runs in found.items()}
    return {"error": error, "seconds": seconds, "held": float(np.mean(held))}
