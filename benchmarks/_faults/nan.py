"""NaN or infinity in a batch: in the data, by the energy of some rows, or by numbers too large."""

import re

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.ground import (
    NAMED,
    RECOVERED,
    Done,
    Ground,
    Verdict,
    answer,
    claim,
    finite_everywhere,
    no_traceback,
    pick,
)
from benchmarks._faults.trainings import COMMANDS, FUNCTIONS, ROWS

VARIANTS = "cell", "rows", "rows, recover", "window", "huge"


def nan(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """The place in the data is named, and no parameter comes to harm."""
    done.variant = pick(rng, VARIANTS)
    match done.variant:
        case "cell":
            return _cell(rng, ground, done)
        case "window":
            return _window(rng, ground, done)
        case "huge":
            return _huge(rng, ground, done)
    return _rows(rng, ground, done)


def _cell(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """A value of the file is NaN or infinite: refused before anything is written."""
    training = pick(rng, COMMANDS)
    done.training = training.name
    ending = pick(rng, (".npy", ".npz", ".csv", ".parquet"))
    value = pick(rng, (np.nan, np.inf, -np.inf))
    rows = trainings.rows_of(training.rows)
    row, column = (int(rng.integers(size)) for size in rows.shape)
    rows[row, column] = value
    done.moment = f"{value} in row {row}, column {column} of a file {ending}"
    with ground.fresh() as folder:
        data, run = folder / f"rows{ending}", folder / "run"
        trainings.write(rows, data)
        ended = ground.run(trainings.fit(training, data, run))
        no_traceback(training, ended)
        claim(ended.status == 2, f"status {ended.status} where 2 is due: {ended.last}")
        if np.isnan(value) and ending in (".csv", ".parquet"):
            where = f"line {row + 2}" if ending == ".csv" else f"row {row}"
            words = f"{where}, column 'column{column}'"
        else:
            words = f"({row}, {column})"
        claim(words in ended.last, f"expected '{words}' in the message, got: {ended.last}")
        claim(not run.exists(), "a run folder was made for data that were refused")
        return Verdict(NAMED, ended.last)


def _rows(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """The energy of a few rows is not finite: one of them is named, by its number."""
    training = pick(rng, FUNCTIONS)
    done.training = training.name
    beyond = pick(rng, ("nan", "infinite"))
    rows = trainings.rows_of(training.rows)
    planted = np.sort(rng.choice(ROWS, int(rng.integers(1, 4)), replace=False))
    rows[planted, 0] = rng.uniform(7, 9, len(planted))
    done.moment = f"the energy is {beyond} at rows {planted.tolist()}"
    options = ["--beyond", beyond] + ["--recover"] * ("recover" in done.variant)
    with ground.fresh() as folder:
        data, run = folder / "rows.npy", folder / "run"
        trainings.write(rows, data)
        ended = ground.run(trainings.fit(training, data, run, *options))
        told = answer(ended)
        finite_everywhere(run)
        claim(saved.result(run) is not None, "there is no whole result")
        claim(not told["reliable"], "it called a training on such rows reliable")
        (reason,) = told["reasons"]
        found = re.search(r"row (\d+) of those trained on", reason)
        claim(found is not None, f"expected the row to be named, got: {reason}")
        assert found is not None
        claim(int(found[1]) in planted, f"row {found[1]} was named, {planted.tolist()} are wrong")
        claim(not told["recoveries"], f"rates were lowered in vain: {told['recoveries']}")
        return Verdict(NAMED, reason)


def _window(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """A file is read bit by bit, and a value of it is NaN: named by its place in the file."""
    training = pick(rng, FUNCTIONS)
    done.training = training.name
    rows = trainings.rows_of(training.rows)
    row, column = (int(rng.integers(size)) for size in rows.shape)
    rows[row, column] = np.nan
    done.moment = f"NaN in row {row}, column {column}"
    with ground.fresh() as folder:
        data, run = folder / "rows.npy", folder / "run"
        trainings.write(rows, data)
        ended = ground.run(trainings.fit(training, data, run, "--window", "100"))
        claim(ended.status == 2, f"status {ended.status} where 2 is due: {ended.last}")
        finite_everywhere(run)
        found = re.search(r"rows from ([\d,]+): .* index \((\d+), (\d+)\)", ended.last)
        claim(found is not None, f"expected a place in the file, got: {ended.last}")
        assert found is not None
        place = int(found[1].replace(",", "")) + int(found[2]), int(found[3])
        claim(place == (row, column), f"{place} was named, {(row, column)} is NaN")
        claim(not (run / "fit.json").exists(), "there is a result of a run that was refused")
        return Verdict(NAMED, ended.last)


def _huge(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """A finite value so large that float32 overflows on the way."""
    training = pick(rng, [t for t in COMMANDS if t.rows == "points"])
    done.training = training.name
    rows = trainings.rows_of(training.rows)
    row, column = (int(rng.integers(size)) for size in rows.shape)
    rows[row, column] = 10 ** rng.uniform(10, 38)
    done.moment = f"{rows[row, column]:.3g} in row {row}, column {column}"
    with ground.fresh() as folder:
        data, run = folder / "rows.npy", folder / "run"
        trainings.write(rows, data)
        ended = ground.run(trainings.fit(training, data, run))
        no_traceback(training, ended)
        finite_everywhere(run)
        if ended.status == 2:
            words = rf"row {row}\b|\({row}, {column}\)|column {column}\b|too (large|far)|standardis"
            named = re.search(words, ended.last)
            claim(named is not None, f"expected the place or the size, got: {ended.last}")
            claim(not run.exists(), "a run folder was made for data that were refused")
            return Verdict(NAMED, ended.last)
        told = answer(ended)
        claim(saved.result(run) is not None, "there is no whole result")
        if not told["reliable"]:
            return Verdict(NAMED, "; ".join(told["reasons"]))
        import jax

        import energax as ex

        energies = np.asarray(jax.vmap(ex.load(run).energy)(rows))
        claim(bool(np.isfinite(energies).all()), "called reliable, yet rows have no finite energy")
        return Verdict(RECOVERED, f"energies of the rows from {energies.min():.3g} on")
