"""How often does each test of two samples see that they differ, and how often wrongly?

`ex.same_distribution` beside the energy distance (Székely & Rizzo 2004) and the maximum mean
discrepancy with a Gaussian kernel of median width (Gretton et al. 2012), both with shuffled labels
on standardised columns, and beside scikit-learn's logistic regression and boosted trees, trained on
half of the rows, their scores of the other half tested with shuffled labels (Lopez-Paz & Oquab
2017). All at level 0.05. The cases were chosen before the figures were seen, the weights of our
statistic on other seeds of some of them.
"""

import functools
import warnings
from collections.abc import Callable

import numpy as np

from benchmarks._timing import Options, Report, isolated, say

OURS = "same_distribution"
TESTS = (OURS, "energy distance", "MMD", "logistic regression", "boosted trees")
LEVEL, SHUFFLES = 0.05, 199
RUNS, QUICK_RUNS = 200, 6
FIRST_SEED = 1_000


def run(options: Options) -> Report:
    runs = QUICK_RUNS if options.quick else RUNS
    limits: list[tuple[str, float, float]] = []
    notes: list[str] = []
    gaps = []
    for case in CASES:
        say(f"benchmarks: two_samples: {case}")
        arguments = {"case": case, "runs": runs}
        found = isolated("benchmarks.two_samples:rates", arguments, options.threads)
        rate = {name: found[name] for name in TESTS}
        notes.append(f"{case}: " + ", ".join(f"{name} {rate[name]:.2f}" for name in TESTS))
        best = max(rate[name] for name in TESTS[1:])
        if case.startswith("alike"):
            most = LEVEL + 4 * float(np.sqrt(LEVEL * (1 - LEVEL) / runs))
            limits.append((f"{case}: share of alarms of ours", rate[OURS], most))
        else:
            limits.append((f"{case}: power of the best peer above ours by", best - rate[OURS], 0.0))
            gaps.append([rate[name] for name in TESTS])
    mean = np.mean(gaps, axis=0)
    notes.append(
        "mean power: " + ", ".join(f"{n} {m:.2f}" for n, m in zip(TESTS, mean, strict=True))
    )
    limits.append(("mean power of the best peer above ours by", float(max(mean[1:]) - mean[0]), 0))
    return Report(
        name="two_samples",
        question=f"Share of {runs} pairs of samples in which each test has p ≤ {LEVEL:g}, of one "
        "distribution (alike) and of two.",
        timings=[],
        ratios=[],
        limits=limits,
        notes=notes,
    )


def rates(case: str, runs: int) -> dict[str, float]:
    """{test: share of pairs with p ≤ 0.05}."""
    alarms = dict.fromkeys(TESTS, 0)
    for seed in range(FIRST_SEED, FIRST_SEED + runs):
        X, Y = CASES[case](np.random.default_rng(seed))
        for name in TESTS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                alarms[name] += p_value(name, X, Y, seed) <= LEVEL
    return {name: count / runs for name, count in alarms.items()}


def p_value(name: str, X: np.ndarray, Y: np.ndarray, seed: int) -> float:
    if name == OURS:
        import energax as ex

        found = ex.same_distribution(X, Y, key=ex.random.key(seed), num_permutations=SHUFFLES)
        return found.p_value
    rng = np.random.default_rng([seed, 1])
    if name in ("energy distance", "MMD"):
        return _of_distances(name, X, Y, rng)
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    boosted = name == "boosted trees"
    model = HistGradientBoostingClassifier(random_state=0) if boosted else LogisticRegression()
    rows, label = np.concatenate([X, Y]), np.repeat([1, 0], [len(X), len(Y)])
    order = rng.permutation(len(rows))
    train, asked = order[: len(rows) // 2], order[len(rows) // 2 :]
    score = model.fit(rows[train], label[train]).predict_proba(rows[asked])[:, 1]
    labels = _shuffled(label[asked] == 1, rng)
    return _share(score @ labels)


def _of_distances(name: str, X: np.ndarray, Y: np.ndarray, rng: np.random.Generator) -> float:
    rows = np.concatenate([X, Y])
    rows = (rows - rows.mean(0)) / np.where(rows.std(0) > 0, rows.std(0), 1.0)
    square = np.maximum(((rows[:, None] - rows[None]) ** 2).sum(-1), 0.0)
    alike = -np.sqrt(square) if name != "MMD" else np.exp(-square / np.median(square[square > 0]))
    labels = _shuffled(np.arange(len(rows)) < len(X), rng)
    return _share((labels * (alike @ labels)).sum(0))


def _shuffled(is_x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(rows, 1 + shuffles): means of X less means of Y, the labels as they are first."""
    label = np.where(is_x, 1 / is_x.sum(), -1 / (~is_x).sum())
    return np.stack([label, *(rng.permutation(label) for _ in range(SHUFFLES))], 1)


def _share(statistics: np.ndarray) -> float:
    return float(np.mean(statistics >= statistics[0] - 1e-12))


# ---- pairs of samples ------------------------------------------------------------------------

_Pair = tuple[np.ndarray, np.ndarray]


def _normals(rng: np.random.Generator, num: int, columns: int, change: Callable) -> _Pair:
    X, Y = rng.normal(size=(2, num, columns))
    return X, change(rng, Y)


def _shifted(_, Y: np.ndarray, by: float, columns: int) -> np.ndarray:
    return Y + by * (np.arange(Y.shape[1]) < columns)


def _correlated(_, Y: np.ndarray, by: float, pairs: int) -> np.ndarray:
    Y = Y.copy()
    for i in range(0, 2 * pairs, 2):
        Y[:, i + 1] = by * Y[:, i] + np.sqrt(1 - by**2) * Y[:, i + 1]
    return Y


def _wider(_, Y: np.ndarray) -> np.ndarray:
    return Y * np.where(np.arange(Y.shape[1]) == 0, 1.5, 1.0)


def _two_humps(rng: np.random.Generator, Y: np.ndarray) -> np.ndarray:
    Y = Y.copy()
    Y[:, 0] = 0.9 * rng.choice([-1, 1], len(Y)) + 0.436 * Y[:, 0]
    return Y


def _with_a_cluster(rng: np.random.Generator, Y: np.ndarray) -> np.ndarray:
    return np.where(rng.random((len(Y), 1)) < 0.06, 2.5 + 0.3 * Y, Y)


def _ring(rng: np.random.Generator, Y: np.ndarray) -> np.ndarray:
    """Normal columns both, but far apart: the one's size goes with the other's."""
    size = np.abs(Y[:, :1]) * np.where(rng.random((len(Y), 1)) < 0.5, -1, 1)
    return np.concatenate([Y[:, :1], size, Y[:, 2:]], 1)


def _heavy(rng: np.random.Generator) -> _Pair:
    X, Y = rng.standard_t(2, (2, 100, 5))
    return X, Y + 0.5 * np.eye(5)[0]


def _bits(rng: np.random.Generator, share: float, copied: float) -> _Pair:
    X, Y = (rng.random((2, 150, 10)) < 0.3).astype(float)
    Y[:, 0] = rng.random(150) < share
    Y[:, 2] = np.where(rng.random(150) < copied, Y[:, 1], Y[:, 2])
    return X, Y


def _normal_case(num: int, width: int, change: Callable, **options) -> Callable:
    return functools.partial(
        _normals, num=num, columns=width, change=functools.partial(change, **options)
    )


CASES: dict[str, Callable[[np.random.Generator], _Pair]] = {
    "alike, normal, 5 columns": _normal_case(100, 5, _shifted, by=0.0, columns=0),
    "alike, bits": functools.partial(_bits, share=0.3, copied=0.0),
    "one mean of 10 by 0.45 sd": _normal_case(100, 10, _shifted, by=0.45, columns=1),
    "all means of 10 by 0.17 sd": _normal_case(100, 10, _shifted, by=0.17, columns=10),
    "one correlation of 45 is 0.5": _normal_case(150, 10, _correlated, by=0.5, pairs=1),
    "four correlations of 28 are 0.3": _normal_case(150, 8, _correlated, by=0.3, pairs=4),
    "one sd of 5 is 1.5": _normal_case(100, 5, _wider),
    "two humps in one of 5": _normal_case(150, 5, _two_humps),
    "6 % in a cluster, 5 columns": _normal_case(150, 5, _with_a_cluster),
    "sizes alike, signs free, 4 columns": _normal_case(100, 4, _ring),
    "heavy tails, one mean of 5 by 0.5": _heavy,
    "one share of 10 bits, 0.3 to 0.47": functools.partial(_bits, share=0.47, copied=0.0),
    "one pair of 10 bits, 0.4 copied": functools.partial(_bits, share=0.3, copied=0.4),
}
