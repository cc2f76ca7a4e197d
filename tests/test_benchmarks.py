"""The benchmarks' own machinery; what they measure is not measured here."""

import dataclasses
import importlib
import json
import os
import pkgutil

import numpy as np
import pytest

benchmarks = pytest.importorskip("benchmarks", reason="not part of what is released")
from benchmarks import _gauntlet_runs, _malformed, _pages, objectives_table  # noqa: E402
from benchmarks._lines import append  # noqa: E402
from benchmarks._objectives.page import NOT_THE_ROWS, TITLES  # noqa: E402
from benchmarks._objectives.page import table as objectives_in  # noqa: E402
from benchmarks._objectives.runs import Run, read  # noqa: E402
from benchmarks._timing import (  # noqa: E402
    Options,
    Report,
    as_json,
    isolated,
    machine,
    table,
)

NAMES = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_loads(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def answer(number):
    return {"double": 2 * number, "threads": os.environ.get("NPROC"), "process": os.getpid()}


def test_a_process_of_its_own_answers_within_its_threads():
    found = isolated("tests.test_benchmarks:answer", {"number": 21}, threads=1)
    assert found["double"] == 42 and found["threads"] == "1"
    assert found["process"] != os.getpid() and found["peak"] > 1


def test_a_report_is_written_whatever_kind_its_numbers_are():
    limits = [("a gap", np.float32(0.5), 1.0), ("another", np.float64(2.0), 1)]
    report = Report("name", "question?", [], [], limits, ["a note"])
    document = json.loads(json.dumps(as_json(report, Options(None, True, None), machine())))
    assert [limit["met"] for limit in document["limits"]] == [True, False]
    assert any("a gap | 0.50 | 1 | met" in line for line in table(document))


def test_the_tables_of_the_pages_are_those_of_the_results():
    pages = [page.read_text() for page in _pages.PAGES.glob("*.md")]
    assert sum(page.count("<!-- figures: ") for page in pages) >= 4
    for page in pages:
        assert _pages.written(page) == page
    changed = next(page for page in pages if "<!-- figures: ring -->" in page)
    assert _pages.written(changed.replace("| 10 | 0.3 |", "| 11 | 0.3 |")) == changed


def test_the_table_of_faults_is_read_from_the_notes():
    kind = "kill -9: 20 runs, 19 recovered, 0 ended with the cause named, 1 wrong"
    document = {"notes": [kind, "  7 WRONG     kill, twice: it hung"]}
    assert _pages._faults(document, "fault")[2:] == ["| kill -9 | 20 | 19 | 0 | 1 |"]


# ---- files of runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 40, 0])
def test_what_follows_a_line_cut_short_is_not_lost_with_it(tmp_path, cut):
    """Of a run of the gauntlet that was killed while it wrote: the next one ends the line first."""
    first, second, third = (
        _gauntlet_runs.Run("a", "normal", 1, True, "default", seed, 0.5, value=0.5)
        for seed in range(3)
    )
    file = tmp_path / "runs" / "gauntlet.jsonl"
    append(file, first)
    append(file, second)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) - cut])
    append(file, third)
    # A line that lacks nothing but its end is whole.
    due = [first, third] if cut == 40 else [first, second, third]
    found = _gauntlet_runs.read(file)
    assert [(r.seed, r.value, r.reliable) for r in found] == [(r.seed, 0.5, False) for r in due]
    file.write_bytes(b"")
    append(file, first)
    assert file.read_bytes() == whole.splitlines(keepends=True)[0]


def test_malformed_requests_are_of_every_kind_and_repeat():
    made = list(_malformed.requests(3, 400, 30))
    assert made == list(_malformed.requests(3, 400, 30))
    assert {kind for kind, _ in made} == set(_malformed.KINDS)
    assert all(b"\r\n\r\n" in sent for _, sent in made)


# ---- the table of objectives -----------------------------------------------------------------


def test_every_objective_has_a_row_or_a_reason():
    from benchmarks._objectives.rows import LEFT_OUT, names
    from energax import objectives
    from energax.objectives._base import AbstractAddition

    with_row = {name.split("(")[0] for name in names()}
    assert not with_row & set(LEFT_OUT)
    for name in objectives.__all__:
        made = getattr(objectives, name)
        is_added = isinstance(made, type) and issubclass(made, AbstractAddition)
        assert is_added or name in with_row or name in LEFT_OUT, name
    assert set(NOT_THE_ROWS) <= set(names())


def test_the_truths_of_the_table_of_objectives_are_densities():
    from benchmarks._objectives import sets

    step = 0.02
    axis = np.arange(-4, 4, step) + step / 2
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for name in ("moons", "eight_gaussians"):
        data = sets.make(name, rows=4_000)
        assert data.log_density is not None
        assert abs(np.exp(data.log_density(points)).sum() * step**2 - 1) < 1e-3
        assert abs(data.references["the truth"] - data.log_density(data.train).mean()) < 0.1
    assert sets.names() == list(TITLES)


def test_a_table_of_objectives_goes_on_where_it_ended(tmp_path):
    file, options = tmp_path / "runs.jsonl", Options(None, True, None)
    before = Run("potts", "PseudoLikelihood()", 0, 20, 300, value=-8.0, std_err=0.0, trusted=True)
    kept = json.dumps(dataclasses.asdict(before))
    file.write_text(kept + "\n" + kept[:40])  # a write that was cut short
    asked = ("potts", "PseudoLikelihood()", "EnergyMatching()")
    found = objectives_table.measured(options, file, only=asked, seeds=2, steps=20, size=300)
    assert read(file)[0] == before
    assert [(r.row, r.seed, r.trusted, r.error) for r in read(file)] == [
        ("PseudoLikelihood()", seed, True, None) for seed in (0, 1)
    ]
    document = as_json(found, options, machine())
    mean = f"{np.mean([r.value for r in read(file)]):.3f}".replace("-", "−")
    for target in ("objectives", "objectives_potts"):
        lines = objectives_in(document, target)
        assert any(line.startswith("| *the truth* | −") for line in lines)
        assert any(line.startswith(f"| `PseudoLikelihood()` | {mean} ± ") for line in lines)


def test_what_is_not_there_or_not_trusted_is_said_and_no_number():
    absent = objectives_table.measured(Options(None, True, None), only=("nltcs",))
    assert absent.timings == [] and "nltcs is left out" in absent.notes[0]
    told = {"steps": 1, "rows": 1, "std_err": 0.1, "method": "AIS", "reliable": True}
    some = [
        Run("moons", "DenoisingScoreMatching()", seed, value=value, trusted=trusted, **told)
        for seed, value, trusted in ((0, -1.0, True), (1, -3.0, True), (2, 77.0, False))
    ]
    bad = [Run("moons", "EnergyMatching()", seed, value=77.0, **told) for seed in range(3)]
    gone = [Run("moons", "ScoreMatching()", 0, 1, 1, error="ValueError: x")]
    told |= {"value": -1.5, "trusted": True, "reliable": False}
    ended = [Run("moons", "PersistentCD(k)", 0, stopped=True, **told)]
    found = objectives_table.report(some + bad + gone + ended, [], {}, "", 3)
    lines = objectives_in(as_json(found, Options(None, True, None), machine()), "objectives")
    assert "| `DenoisingScoreMatching()` | −2.000 ± 1.414 (2 of 3) ¹ |" in lines
    assert "| `EnergyMatching()` | log Z untrusted ³ |" in lines
    assert "| `ScoreMatching()` | failed |" in lines
    assert "| `PersistentCD(k)` | −1.500 † |" in lines
    assert not any("77" in line for line in lines)
    assert any(line.startswith("¹ Not a likelihood of the rows") for line in lines)
    assert [limit for _, limit, _ in found.limits] == [1.0]
