"""A file is cut short, changed or gone: checkpoints, settings, result, data, compiled programs."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np

from benchmarks._faults import saved, trainings
from benchmarks._faults.ground import (
    NAMED,
    Done,
    Ended,
    Ground,
    Verdict,
    claim,
    no_traceback,
    pick,
)
from benchmarks._faults.kill import killed, until_step
from benchmarks._faults.trainings import COMMANDS, EVERY, STEPS, TRAININGS, Training

CHECKPOINT = "checkpoint: "
HARMS = "cut short", "a byte changed", "gone"
VARIANTS = (
    *(f"{CHECKPOINT}{what} {harm}" for what in ("arrays", "description") for harm in HARMS[:2]),
    *(f"{CHECKPOINT}{what}" for what in ("arrays gone", "all cut short")),
    *(f"settings {harm}" for harm in HARMS[:2]),
    "result cut short",
    *(f"data {harm}" for harm in HARMS),
    "data cut short before the start",
    "compiled programs cut short",
)


def damage(rng: np.random.Generator, ground: Ground, done: Done) -> Verdict:
    """What is damaged is named, and gone on from what is good, to the same end."""
    variant = pick(rng, VARIANTS)
    commands_only = variant.startswith(("settings", "data cut short before"))
    training = pick(rng, COMMANDS if commands_only else TRAININGS)
    done.training, done.variant = training.name, variant
    if variant == "data cut short before the start":
        return _cut_data(rng, ground, done, training)
    ground.unfaulted(training)
    step = EVERY * int(rng.integers(2, STEPS // EVERY))
    with ground.fresh() as folder:
        data, run = folder / "rows.npy", folder / "run"
        shutil.copy(ground.data(training), data)
        begun = trainings.fit(training, data, run)
        if variant == "result cut short":
            step = STEPS
            ended = ground.run(begun)
        else:
            ended, _ = killed(ground, begun, run, until_step(run, step))
        claim(ended.status in (0, -signal.SIGKILL), f"status {ended.status}: {ended.last}")
        done.moment = f"stopped after step {step}"
        if variant.startswith(CHECKPOINT):
            return _checkpoint(rng, ground, done, training, data, run)
        if variant == "compiled programs cut short":
            cache = folder / "compiled"
            shutil.copytree(ground.cache, cache)
            for path in filter(Path.is_file, cache.iterdir()):
                _harm(rng, path, "cut short")
            return ground.goes_on(training, data, run, cache=cache)[0]
        if variant == "result cut short":
            done.moment += ", " + _harm(rng, run / "fit.json", "cut short")
            return ground.goes_on(training, data, run)[0]
        path = run / "run.json" if variant.startswith("settings") else data
        return _refused(rng, ground, done, training, data, run, path)


def _checkpoint(
    rng: np.random.Generator, ground: Ground, done: Done, training: Training, data: Path, run: Path
) -> Verdict:
    kept = saved.good(run)
    claim(len(kept) >= 2, f"expected two checkpoints or more, found those of {kept}")
    doomed = kept if "all" in done.variant else kept[-1:]
    for step in doomed:
        path = saved.checkpoint(run, step)
        if "arrays" in done.variant or "all" in done.variant:
            (path,) = path.parent.glob(f"{path.stem}.*.safetensors")
        harm = next(harm for harm in HARMS if harm in done.variant)
        done.moment += f", {path.name} {_harm(rng, path, harm)}"
    claim(saved.good(run) == [s for s in kept if s not in doomed], "the damage was none")
    if "all" in done.variant:
        ended = ground.run(trainings.resume(training, data, run))
        return _named(training, ended, 2, "holds no good checkpoint", *_names(run, doomed))
    verdict, err = ground.goes_on(training, data, run)
    said = next((line for line in err.splitlines() if "damaged" in line), "")
    for word in (*_names(run, doomed), f"going on from {saved.checkpoint(run, kept[-2]).name}"):
        claim(word in said, f"expected a warning with '{word}', got: {said or err[-300:]}")
    verdict.said = said
    return verdict


def _names(run: Path, steps: list[int]) -> list[str]:
    return [saved.checkpoint(run, step).stem for step in steps]


def _refused(
    rng: np.random.Generator,
    ground: Ground,
    done: Done,
    training: Training,
    data: Path,
    run: Path,
    path: Path,
) -> Verdict:
    """What is needed to go on is damaged: refused by name, and when it is mended all goes on."""
    harm = next(harm for harm in HARMS if harm in done.variant)
    whole = path.read_bytes()
    if path == data and harm == "a byte changed":
        rows = np.load(data)
        cell = tuple(int(rng.integers(size)) for size in rows.shape)
        rows[cell] = -rows[cell] if training.rows != "bits" else 1 - rows[cell]
        np.save(data, rows)
        done.moment += f", {path.name}: the value at {cell} changed"
    else:
        done.moment += f", {path.name} {_harm(rng, path, harm)}"
    ended = ground.run(trainings.resume(training, data, run))
    words = {
        ("run.json", "cut short"): "damaged",
        # The place of the data may be changed: what lies there must be the same.
        ("run.json", "a byte changed"): "damaged|expected a file ending|no such data file",
        ("rows.npy", "cut short"): "no complete NumPy file|is empty",
        ("rows.npy", "a byte changed"): "has changed since|holds a run with data_sha256",
        ("rows.npy", "gone"): "there is no such data file",
    }[path.name, harm]
    # A run of the user's own function knows its rows, not the file that they are from.
    place = path.name if training.is_command or harm != "a byte changed" else run.name
    place = "npy|damaged" if path != data else re.escape(place)
    status = 2 if training.is_command or harm != "gone" else 1
    verdict = _named(training, ended, status, words, place)
    claim(not (run / "fit.json").exists(), "there is a result of a run that was refused")
    path.write_bytes(whole)
    ground.goes_on(training, data, run)
    return verdict


def _cut_data(rng: np.random.Generator, ground: Ground, done: Done, training: Training) -> Verdict:
    """Data that are cut short are refused before anything is written."""
    ending = pick(rng, (".npy", ".npz", ".csv", ".parquet"))
    with ground.fresh() as folder:
        data, run = folder / f"rows{ending}", folder / "run"
        shutil.copy(ground.data(training, ending), data)
        if ending == ".csv":
            # Cut at the end of a line, or in its last number, it is a table like any other.
            text = data.read_text()
            lines = text.splitlines(keepends=True)
            line = int(rng.integers(1, len(lines)))
            before = sum(map(len, lines[:line]))
            place = int(rng.integers(before + 1, before + lines[line].rindex(",") + 1))
            data.write_text(text[:place])
            done.moment = f"{data.name} cut after {place} of {len(text)} bytes, in line {line + 1}"
            words = f"line {line + 1} has"
        else:
            done.moment = f"{data.name} {_harm(rng, data, 'cut short')}"
            words = "no complete|is empty"
        ended = ground.run(trainings.fit(training, data, run))
        verdict = _named(training, ended, 2, words, re.escape(data.name))
        claim(not run.exists(), "a run folder was made for data that were refused")
        return verdict


def _named(training: Training, ended: Ended, status: int, *patterns: str) -> Verdict:
    no_traceback(training, ended)
    claim(ended.status == status, f"status {ended.status} where {status} is due: {ended.last}")
    for pattern in patterns:
        found = re.search(pattern, ended.last)
        claim(found is not None, f"expected '{pattern}' in the message, got: {ended.last}")
    return Verdict(NAMED, ended.last)


def _harm(rng: np.random.Generator, path: Path, harm: str) -> str:
    """Damages a file; what was done, in words."""
    content = bytearray(path.read_bytes())
    place = int(rng.integers(max(1, len(content) - 1)))
    if harm == "gone":
        path.unlink()
        return "deleted"
    if harm == "cut short":
        path.write_bytes(content[:place])
        return f"cut after {place} of {len(content)} bytes"
    content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    return f"changed at byte {place} of {len(content)}"
