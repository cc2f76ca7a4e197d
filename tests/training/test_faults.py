"""The benchmark of training under faults: a few of its runs, and that it knows wrong from right."""

import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("benchmarks", reason="not part of what is released")
from benchmarks import faults
from benchmarks._faults import damage, ground, kill, nan, saved, trainings
from benchmarks._faults.kinds import KINDS, SHOWN

(ISING,) = (t for t in trainings.COMMANDS if t.name.startswith("Ising"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return ground.Ground(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("kind", "module", "variant", "outcome", "said"),
    [
        ("kill", kill, "in a write", ground.RECOVERED, ""),
        ("damage", damage, "checkpoint: arrays cut short", ground.RECOVERED, "going on from step-"),
        ("damage", damage, "settings a byte changed", ground.NAMED, "run.json is damaged"),
        ("nan", nan, "cell", ground.NAMED, ""),
    ],
)
def test_faulted_trainings_end_as_they_should(
    monkeypatch, place, kind, module, variant, outcome, said
):
    monkeypatch.setattr(module, "VARIANTS", (variant,))
    for name in ("TRAININGS", "COMMANDS"):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, (ISING,))
    run = faults.one(place, 0, 0, kind)
    assert (run.outcome, run.why) == (outcome, "")
    assert said in run.said and run.training == ISING.name and run.variant == variant


def test_what_is_wrong_is_called_so(monkeypatch, place, tmp_path):
    """Another end, a parameter that is not finite, a traceback, a child that hangs."""
    right = place.unfaulted(ISING)
    name = next(
        name
        for name, value in right.arrays.items()
        if name.startswith("energy") and value.dtype.kind == "f"
    )
    for value, why in ((np.nan, "is not finite"), (0.5, "another than without the fault")):
        changed = right.arrays[name].copy()
        changed.flat[0] = value
        wrong = saved.Saved(right.info, {**right.arrays, name: changed})
        monkeypatch.setattr(saved, "result", lambda run, wrong=wrong: wrong)
        with pytest.raises(ground.Wrong, match=why):
            place.same_end(ISING, tmp_path)
    for line in ("Traceback (most recent call last):", "energax: internal fault, TypeError"):
        with pytest.raises(ground.Wrong, match="on the command line"):
            ground.no_traceback(ISING, ground.Ended(1, "", line))
    monkeypatch.setattr(ground, "PATIENCE", 0.2)
    with pytest.raises(ground.Wrong, match="no end within"):
        place.run([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_checkpoint_passed_over_is_called_wrong(monkeypatch, place, tmp_path):
    """A child that starts from scratch although there is a good checkpoint."""
    run = tmp_path / "run"
    command = trainings.fit(ISING, place.data(ISING), run)
    kill.killed(place, command, run, kill.until_step(run, 100))
    assert max(saved.good(run)) >= 100

    def from_scratch(training, data, out):
        shutil.rmtree(out)
        return trainings.fit(training, data, out)

    monkeypatch.setattr(trainings, "resume", from_scratch)
    with pytest.raises(ground.Wrong, match="from before its newest good checkpoint"):
        place.goes_on(ISING, place.data(ISING), run)


def test_a_file_of_runs_is_gone_on_with(monkeypatch, tmp_path):
    seen = []

    def draw(rng, place, done):
        seen.append(int(rng.integers(1000)))
        done.training, done.variant = "none", "none"
        if len(seen) == 2:
            raise ground.Wrong("so it is")
        return ground.Verdict(ground.RECOVERED, "well")

    monkeypatch.setitem(KINDS, "kill", draw)
    monkeypatch.setitem(KINDS, "nan", draw)
    file = tmp_path / "runs.jsonl"
    first = faults.measure(range(3), kinds=("kill", "nan"), file=file)
    with file.open("a") as out:
        out.write('{"number": 3, "se')  # of an interrupted write
    again = faults.measure(range(3), kinds=("kill", "nan"), file=file)
    assert again == first and len(seen) == len(set(seen)) == 3
    assert [r.kind for r in first] == ["kill", "nan", "kill"]
    found = faults.report(first)
    assert found.limits[0][1:] == (1.0, 0.0)
    assert f"{SHOWN['kill']}: 2 runs, 2 recovered, 0 ended with the cause named, 0 wrong" in (
        found.notes
    )
    assert any("so it is" in note for note in found.notes)
