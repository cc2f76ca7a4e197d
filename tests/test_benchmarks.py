"""The benchmarks' own machinery; what they measure is not measured here."""

import importlib
import os
import pkgutil

import pytest

import benchmarks
from benchmarks._timing import isolated

NAMES = [m.name for m in pkgutil.iter_modules(benchmarks.__path__) if not m.name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_loads_without_its_peers(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").run)


def answer(number):
    return {"double": 2 * number, "threads": os.environ.get("NPROC"), "process": os.getpid()}


def test_a_process_of_its_own_answers_within_its_threads():
    found = isolated("tests.test_benchmarks:answer", {"number": 21}, threads=1)
    assert found["double"] == 42 and found["threads"] == "1"
    assert found["process"] != os.getpid() and found["peak"] > 1
