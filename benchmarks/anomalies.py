"""Which detector of odd rows finds most of them, with its defaults, on ADBench's tables?

`EnergyDetector` beside PyOD's, on standardised columns without constant ones: fitted to all rows
and asked about the same rows, or fitted to half of the normal rows and asked about the rest; there
it is also asked with `novelty=True`, that is told that no row is odd. The defaults were settled on
the tables of SETTLED_ON; the others are shown apart. Then p-values of held-out normal rows, and the
time for 10,000 rows of 30 columns. Tables come by `--data DIR`.
"""

import warnings
from typing import Any

import numpy as np

from benchmarks._data import NO_TABLES, adbench, table_of
from benchmarks._timing import Contender, Options, Report, isolated, race, ratio, say

SETTLED_ON = ("2_annthyroid", "4_breastw", "6_cardio", "20_letter", "31_satimage-2", "45_wine")
OTHERS = ("14_glass", "18_Ionosphere", "23_mammography", "26_optdigits", "29_Pima", "38_thyroid")
OURS, TOLD = "EnergyDetector", "EnergyDetector(novelty=True)"
PEERS = ("IForest", "ECOD", "COPOD", "HBOS", "PCA", "KNN", "LOF", "CBLOF", "OCSVM", "GMM", "KDE")
DETECTORS = {"all": (OURS, *PEERS), "normal": (OURS, TOLD, *PEERS)}
SEEDED = (OURS, TOLD, "IForest", "CBLOF", "PCA", "GMM")
SEEDS, SPLITS = 5, 200
P_VALUES_ON = ("6_cardio", "20_letter", "31_satimage-2")  # each with 1,500 normal rows or more
RATES = (0.01, 0.05)
ROWS, COLUMNS = 10_000, 30


def run(options: Options) -> Report:
    quick = options.quick
    limits: list[tuple[str, float, float]] = []
    notes: list[str] = []
    folder = adbench(options.data)
    if folder is None:
        notes.append(NO_TABLES)
    else:
        for mode, what in (("all", "fitted to all rows"), ("normal", "fitted to normal rows")):
            found = {}
            for name in (*SETTLED_ON[:1], *OTHERS[:1]) if quick else (*SETTLED_ON, *OTHERS):
                say(f"benchmarks: anomalies: {name}, {what}")
                arguments = {"file": str(folder / f"{name}.npz"), "mode": mode, "quick": quick}
                found[name] = isolated("benchmarks.anomalies:judged", arguments, options.threads)
            for group, names in (("settled on", SETTLED_ON), ("the other", OTHERS)):
                chosen = [name for name in names if name in found]
                limits += _compared([found[n] for n in chosen], f"{group}, {what}", group, notes)
                notes += [f"{what}, {n}: {_line(found[n])}" for n in chosen]
        for name in P_VALUES_ON[:1] if quick else P_VALUES_ON:
            say(f"benchmarks: anomalies: p-values on {name}")
            arguments = {"file": str(folder / f"{name}.npz"), "splits": 10 if quick else SPLITS}
            got = isolated("benchmarks.anomalies:false_alarms", arguments, options.threads)
            for rate, mean, outside in zip(RATES, got["means"], got["outside"], strict=True):
                off = abs(mean / rate - 1)
                limits.append((f"{name}: rate of p ≤ {rate:g} beside nominal, off by", off, 0.2))
                limits.append((f"{name}: splits outside the 99.9 % band at {rate:g}", outside, 0))
            notes.append(f"p-values on {name}: {got['text']}")
    timings = race(
        [
            Contender(f"{name}, {ROWS} × {COLUMNS}", "benchmarks.anomalies:job", {"name": name})
            for name in (OURS, "KNN")
        ],
        options.rounds(3),
        options.threads,
    )
    ours = timings[0]
    seconds = ours.first + ours.wall_median
    limits.append(("seconds of fit and score, compile included", seconds, 10.0))
    return Report(
        name="anomalies",
        question="Odd rows in ADBench's tables: area under the ROC curve and average precision of "
        f"EnergyDetector() beside PyOD's detectors, means of {SEEDS} seeds; false alarms of its "
        f"p-values; seconds to fit and score {ROWS} rows of {COLUMNS} columns.",
        timings=timings,
        ratios=[ratio(timings, timings[1].name, timings[0].name, at_least=1.0)],
        limits=limits,
        notes=notes,
    )


def _compared(tables: list[dict], title: str, group: str, notes: list[str]) -> list[tuple]:
    """Limits for tables the defaults were not settled on; a note for all."""
    if not tables:
        return []
    detectors = [d for d in DETECTORS["normal"] if d in tables[0]]
    means = {d: np.mean([t[d] for t in tables], axis=0) for d in detectors}
    ours = [name for name in (OURS, TOLD) if name in means]
    ranks = {name: _ranks(tables, (name, *PEERS)) for name in ours}
    best = max(PEERS, key=lambda d: means[d][0])
    each = [
        f"{d} {m[0]:.3f} / {m[1]:.3f} / {ranks.get(d, ranks[OURS])[d]:.1f}"
        for d, m in means.items()
    ]
    notes.append(f"{title}, mean AUROC / average precision / rank: {'; '.join(each)}")
    limits = []
    for name in ours if group == "the other" else ():
        auroc, precision = (max(means[d][i] for d in PEERS) - means[name][i] for i in (0, 1))
        behind = ranks[name][name] - min(ranks[name][d] for d in PEERS)
        asked = f"{title}, {name}"
        limits += [
            (f"{asked}: mean AUROC of the best peer ({best}) above it by", auroc, 0.0),
            (f"{asked}: mean average precision of the best peer above it by", precision, 0.0),
            (f"{asked}: its mean rank above the best peer's by", behind, 0.0),
        ]
    return limits


def _ranks(tables: list[dict], names: tuple[str, ...]) -> dict[str, float]:
    """Mean rank of each among these, over tables and both measures, 1 for the best."""
    from scipy.stats import rankdata

    each = [rankdata([-t[d][i] for d in names]) for t in tables for i in (0, 1)]
    return dict(zip(names, np.mean(each, axis=0).tolist(), strict=True))


def _line(table: dict[str, Any]) -> str:
    found = {d: table[d] for d in DETECTORS["normal"] if d in table}
    return "; ".join(f"{d} {a:.3f} / {p:.3f}" for d, (a, p) in found.items())


def detector(name: str, seed: int) -> Any:
    if name in (OURS, TOLD):
        from energax.estimators import EnergyDetector

        return EnergyDetector(novelty=name == TOLD, random_state=seed)
    module = __import__(f"pyod.models.{name.lower()}", fromlist=[name])
    seeded = {"random_state": seed} if name in SEEDED else {}
    return getattr(module, name)(**seeded)


def standardised(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    sd = train.std(0)
    return [(rows - train.mean(0)) / np.where(sd > 0, sd, 1.0) for rows in (train, *others)]


def oddness(name: str, seed: int, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Higher is odder."""
    fitted = detector(name, seed).fit(train)
    if rows is train:
        return fitted.decision_scores_
    return fitted.decision_function(rows) * (-1 if name in (OURS, TOLD) else 1)


def judged(file: str, mode: str, quick: bool) -> dict[str, Any]:
    """{detector: [AUROC, average precision]}, means over seeds; by chance where one fails."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    rows, odd = table_of(file)
    out: dict[str, Any] = {}
    for name in DETECTORS[mode]:
        found = []
        for seed in range(1 if quick or (mode == "all" and name not in SEEDED) else SEEDS):
            if mode == "all":
                (train,) = standardised(rows)
                asked, truth = train, odd
            else:
                rng = np.random.default_rng(seed)
                normal = rng.permutation(np.flatnonzero(~odd))
                half = len(normal) // 2
                held = np.concatenate([normal[half:], np.flatnonzero(odd)])
                train, asked = standardised(rows[normal[:half]], rows[held])
                truth = odd[held]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    score = oddness(name, seed, train, asked)
                except Exception as error:
                    say(f"benchmarks: anomalies: {name} failed on {file}: {error}")
                    score = np.zeros(len(truth))
            # a kernel density far from all rows is 0: the oddest there is, and no failure
            score = np.nan_to_num(score, nan=np.nan, posinf=np.finfo(float).max)
            found.append([roc_auc_score(truth, score), average_precision_score(truth, score)])
        out[name] = np.mean(found, axis=0).tolist()
    return out


def false_alarms(file: str, splits: int) -> dict[str, Any]:
    """Rates of p ≤ α of held-out normal rows: their means over random splits, and how many splits
    lie outside the central 99.9 % of what chance gives, a beta-binomial."""
    from scipy.stats import betabinom

    rows, odd = table_of(file)
    normal = rows[~odd]
    rates = []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(normal))
        fitted, asked = normal[order[: 2 * len(order) // 3]], normal[order[2 * len(order) // 3 :]]
        p = detector(OURS, seed).set_params(calibration=0.5).fit(fitted).p_values(asked)
        held_out = round(0.5 * len(fitted))
        rates.append([(p <= rate + 1e-12).mean() for rate in RATES])
    rates, outside = np.array(rates), []
    for i, rate in enumerate(RATES):
        k = int(np.floor(rate * (held_out + 1) + 1e-9))
        # given the held-out rows, p ≤ rate has a chance of its own, which is Beta(k, n + 1 − k)
        chance = betabinom(len(asked), k, held_out + 1 - k)
        low, high = chance.ppf(0.0005), chance.ppf(0.9995)
        count = rates[:, i] * len(asked)
        outside.append(float(((count < low - 0.5) | (count > high + 0.5)).sum()))
    means = rates.mean(0)
    text = ", ".join(f"p ≤ {r:g} in {m:.2%}" for r, m in zip(RATES, means, strict=True))
    return {
        "means": means.tolist(),
        "outside": outside,
        "text": f"{splits} splits, {held_out} rows held out, {len(asked)} asked: {text}",
    }


def job(name: str):
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(COLUMNS, COLUMNS))
    rows = rng.normal(size=(ROWS, COLUMNS)) @ mixing

    def once():
        oddness(name, 0, rows, rows)

    return once
