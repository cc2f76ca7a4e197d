"""The benchmarks' own machinery; what they measure is not measured here."""

import importlib
import json
import os
import pkgutil

import numpy as np
import pytest

benchmarks = pytest.importorskip("benchmarks", reason="not part of what is released")
from benchmarks import _pages  # noqa: E402
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
