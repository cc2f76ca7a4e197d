"""How likely are held-out rows of four binary tables under the best Boltzmann machine for them?

Candidates are trained on `train`, those of exact likelihood stopped by `valid`, and where there are
several the mixture of all with equal weights is one more; the best on `valid` is asked once about
`test`. Columns of mushrooms and dna are indicators of categories: candidates
"of groups" are models of these, and rows with two indicators of a group would have probability 0.
The data (nltcs, plants, mushrooms, dna) come by `--data DIR` and are named where absent.
"""

import dataclasses
import tempfile
import warnings
from typing import Any

import numpy as np

from benchmarks._data import debd as rows
from benchmarks._timing import Options, Report, Timing, clock, isolated, say

PUBLISHED = {
    "nltcs": {"Chow-Liu": -6.759, "ACMN": -6.00},
    "plants": {"Chow-Liu": -16.524, "ACMN": -12.80},
    "mushrooms": {"Chow-Liu": -20.960, "RBM-23": -15.15, "NADE": -9.81},
    "dna": {"Chow-Liu": -87.669, "RBM-23": -96.74, "NADE": -84.81, "ACMN": -80.03},
}
TO_REACH = {"nltcs": -6.00, "plants": -12.5, "mushrooms": -9.5, "dna": -81.0}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """`kind`: "rbm", centred, of `hidden` units, its likelihood exact up to 12 of them or 2^16
    states of a layer, else by persistent chains; or "pairs", all couplings by pseudo-likelihood.
    `groups`: of the groups of columns of which at most one is 1, as categories. `l1`, `l2`: per
    weight. `rate` falls to 0 over the steps, as a quarter of a cosine wave. `seed`: of the first
    weights, the minibatches and the chains."""

    kind: str
    hidden: int = 0
    groups: bool = False
    l1: float = 0.0
    l2: float = 0.0
    rate: float = 0.01
    steps: int = 10_000
    chain_steps: int = 5
    seed: int = 0

    def __str__(self) -> str:
        what = f"RBM, {self.hidden} hidden" if self.kind == "rbm" else "all pairs"
        what += " of groups" if self.groups else ""
        return what + "".join(
            f", {name} {value:g}"
            for name, value in (("L1", self.l1), ("L2", self.l2), ("seed", self.seed))
            if value
        )


CANDIDATES = {
    "nltcs": [Candidate("rbm", 50, rate=0.02, steps=12_000)],
    "plants": [
        Candidate("rbm", 600, l2=2e-4, rate=3e-3, steps=70_000, seed=seed) for seed in range(4)
    ],
    "mushrooms": [
        Candidate("rbm", 12, groups=True, l2=l2, rate=0.03, steps=6_000) for l2 in (0.0, 1e-4)
    ],
    "dna": [Candidate("pairs", groups=True, l1=l1) for l1 in (3e-3, 6e-3, 1e-2)],
}
BATCH, CHAINS, AVERAGE = 100, 100, 0.999
PRECISION = 0.05  # of log Z, nats: candidates differ by little more


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    folder = None if options.data is None else options.data.resolve() / "debd"
    if folder is None:
        notes.append("No data: give the folder by --data DIR.")
    for name in PUBLISHED if folder is not None else ():
        if not (folder / f"{name}.npz").exists():
            notes.append(f"debd/{name}.npz is not in {options.data}: left out.")
            continue
        _one(name, str(folder / f"{name}.npz"), options, timings, limits, notes)
    return Report(
        name="debd",
        question="Mean log-likelihood of held-out rows, nats a row: the candidate that is best on "
        "`valid`, asked once about `test`. The interval is of log Z and of the rows (95 %).",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def _one(name: str, file: str, options: Options, timings, limits, notes) -> None:
    candidates = CANDIDATES[name][:1] if options.quick else CANDIDATES[name]
    spent, found = clock(), []
    with tempfile.TemporaryDirectory() as folder:
        for i, candidate in enumerate(candidates):
            settings = dataclasses.asdict(candidate)
            settings |= {"steps": min(candidate.steps, 300)} if options.quick else {}
            arguments = {"file": file, "settings": settings, "out": f"{folder}/{i}"}
            one = isolated("benchmarks.debd:train", arguments, options.threads)
            found.append(one | {"name": str(candidate), "folders": [f"{folder}/{i}"]})
            timings.append(
                Timing(f"{name}: {candidate}", 0.0, [one["wall"]], [one["cpu"]], one["peak"])
            )
        of_groups = candidates[0].groups
        if len(candidates) > 1 and len({candidate.groups for candidate in candidates}) == 1:
            folders = [f"{folder}/{i}" for i in range(len(candidates))]
            arguments = {"file": file, "part": "valid", "folders": folders, "of_groups": of_groups}
            one = isolated("benchmarks.debd:score", arguments, options.threads)
            found.append(one | {"name": f"mixture of these {len(folders)}", "folders": folders})
        for one in found:
            line = f"{name}: {one['name']}: valid {one['value']:.3f} ± {one['std_err']:.3f} (log Z)"
            line += f" after {one['steps']:,} steps" if "steps" in one else ""
            notes.append(line + (f"; {one['why']}" if one["why"] else ""))
            say(notes[-1])
        usable = [one for one in found if one["reliable"]]
        if not usable:
            notes.append(f"{name}: no candidate has a log Z to be trusted: nothing asked of test")
            limits.append((f"{name}: candidates without a trusted log Z", len(found), 0.0))
            return
        best = max(usable, key=lambda one: one["value"])
        arguments = {"file": file, "part": "test", "folders": best["folders"]}
        test = isolated(
            "benchmarks.debd:score", arguments | {"of_groups": of_groups}, options.threads
        )
    minutes = spent()[0] / 60
    published = ", ".join(f"{k} {v:.2f}" for k, v in PUBLISHED[name].items())
    notes.append(
        f"{name}: OURS {test['value']:.3f} [{test['lower']:.3f}, {test['upper']:.3f}] "
        f"({best['name']}; log Z ± {test['std_err']:.3f}, {test['method']}, "
        f"{'reliable' if test['reliable'] else 'UNRELIABLE'}); published: {published}; to reach "
        f"{TO_REACH[name]:g}; {minutes:.1f} minutes for all candidates"
    )
    short = max(0.0, TO_REACH[name] - test["value"])
    limits.append((f"{name}: nats short of {TO_REACH[name]:g}", short, 0.0))


def train(file: str, settings: dict[str, Any], out: str) -> dict:
    """One candidate, written to the folder `out`, and its likelihood of `valid`."""
    candidate = Candidate(**settings)
    groups = groups_of(rows(file, "train")) if candidate.groups else None
    train, valid = (as_categories(rows(file, part), groups) for part in ("train", "valid"))
    warnings.simplefilter("ignore")
    spent = clock()
    if candidate.kind == "pairs":
        fit = _pairs(candidate, train, groups)
        energy = fit.energy
    else:
        fit = _rbm(candidate, train, valid, groups)
        energy = fit.energy.plain
    wall, cpu = spent()
    dataclasses.replace(fit, energy=energy).save(out)
    found = _score(energy, valid, seed=1)
    found["why"] = "; ".join([*fit.reasons, *([found["why"]] if found["why"] else [])])
    return found | {"wall": wall, "cpu": cpu, "steps": fit.num_steps}


def score(file: str, part: str, folders: list[str], of_groups: bool) -> dict:
    """The likelihood of a part's rows under the model in a folder, or the mixture of several."""
    import energax as ex

    energies = [ex.load(folder).energy for folder in folders]
    groups = groups_of(rows(file, "train")) if of_groups else None
    asked = as_categories(rows(file, part), groups)
    seed = 2 if part == "test" else 1  # the choice between candidates was made with other draws
    if len(energies) == 1:
        return _score(energies[0], asked, seed)
    each = [ex.log_z(energy, key=ex.random.key(0), precision=PRECISION) for energy in energies]
    return _score(ex.energies.ModelMixture(energies, each), asked, seed)


def _score(energy: Any, asked: np.ndarray, seed: int) -> dict:
    """Mean log-likelihood with its interval."""
    import energax as ex

    z = ex.log_z(energy, key=ex.random.key(seed), precision=PRECISION)
    score = ex.score_samples(energy, asked, key=ex.random.key(seed), log_z=z).mean()
    return {
        "value": float(score.value),
        "lower": float(score.lower),
        "upper": float(score.upper),
        "std_err": float(score.log_z_std_err),
        "reliable": bool(score.reliable),
        "method": z.method,
        "why": "; ".join(z.reasons),
    }


def groups_of(train: np.ndarray) -> list[list[int]]:
    """Columns in a row of which at most one is 1 in any training row."""
    together = train.T @ train > 0
    groups = [[0]]
    for j in range(1, train.shape[1]):
        if together[j, groups[-1]].any():
            groups.append([])
        groups[-1].append(j)
    return groups


def as_categories(table: np.ndarray, groups: list[list[int]] | None) -> np.ndarray:
    """The rows, or for each group the number of the column that is 1, from 1; 0 for none."""
    if groups is None:
        return table
    if any((table[:, group].sum(1) > 1).any() for group in groups):
        raise ValueError("a row has two columns of a group: its probability would be 0")
    numbers = [
        np.where(table[:, group].any(1), 1 + table[:, group].argmax(1), 0) for group in groups
    ]
    return np.stack(numbers, axis=1).astype(np.int32)


def _space(table: np.ndarray, groups: list[list[int]] | None) -> Any:
    import energax as ex

    if groups is None:
        return ex.Binary((table.shape[1],))
    return ex.Categorical((len(groups),), 1 + max(map(len, groups)))


def _pairs(candidate: Candidate, train: np.ndarray, groups: list[list[int]] | None):
    import energax as ex

    kind = ex.energies.BoltzmannMachine if groups is None else ex.energies.GeneralPotts
    objective = ex.objectives.PseudoLikelihood()
    objective = ex.objectives.Penalised(objective, l1=candidate.l1, l2=candidate.l2)
    start = kind.zeros(_space(train, groups), train)
    return ex.fit(start, train, objective, key=ex.random.key(0), optimizer="lbfgs")


def _rbm(candidate: Candidate, train: np.ndarray, valid: np.ndarray, groups: Any):
    import optax

    import energax as ex

    space, num = _space(train, groups), candidate.hidden
    key = ex.random.key(candidate.seed)
    start = ex.energies.RBM.random(space, num, key=key, data=train, scale=0.05)
    exact = num <= 12 or (groups is None and train.shape[1] <= 16)
    objective: Any = ex.objectives.MaximumLikelihood()
    if not exact:
        objective = ex.objectives.PersistentCD(candidate.chain_steps, CHAINS)
    if candidate.l1 or candidate.l2:
        objective = ex.objectives.Penalised(objective, l1=candidate.l1, l2=candidate.l2)
    rate = optax.cosine_decay_schedule(candidate.rate, candidate.steps)
    return ex.fit(
        ex.energies.CentredRBM.of(start, train),
        train,
        objective,
        key=key,
        num_steps=candidate.steps,
        batch_size=200 if exact else BATCH,
        optimizer=optax.adam(rate),
        average=AVERAGE,
        early_stopping=ex.EarlyStopping(valid, patience=15) if exact else None,
    )
