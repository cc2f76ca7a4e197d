"""`import energax` is quick and brings no heavy library along."""

import os
import statistics
import subprocess
import sys

import pytest

HEAVY = ["sklearn", "matplotlib", "typer", "pandas", "optax", "pyarrow", "safetensors"]


def test_import_brings_nothing_heavy():
    code = f"import sys, energax; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def cpu_seconds(code: str) -> float:
    """User and system time of a fresh interpreter that runs `code`."""
    process = subprocess.Popen([sys.executable, "-c", code])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_import_costs_little_more_than_jax():
    # Paired, first run thrown away (it may write .pyc files); hosts are shared, so medians.
    pairs = [(cpu_seconds("import energax"), cpu_seconds("import jax")) for _ in range(11)][1:]
    ours, jax = (statistics.median(side) for side in zip(*pairs, strict=True))
    assert ours <= 1.6 * jax, f"import energax {ours:.2f} s of CPU, import jax {jax:.2f} s"
