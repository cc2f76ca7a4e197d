"""`import energax` is quick and brings no heavy library along."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["sklearn", "matplotlib", "typer", "pandas", "optax", "pyarrow", "safetensors"]

# Names are loaded when first used, so the bare import is not all that a user pays for.
VERBS = "import energax as ex; ex.Real, ex.from_log_density, ex.sample, ex.log_z, ex.fit"


@pytest.mark.parametrize("statement", ["import energax", VERBS])
def test_import_brings_nothing_heavy(statement: str):
    code = f"{statement}; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def cpu_seconds(code: str, folder: Path) -> float:
    """User and system time of a fresh interpreter that runs `code`, with bytecode kept in a folder
    (a machine may have told Python to write none, and then ours is compiled each time)."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env["PYTHONPYCACHEPREFIX"] = str(folder)
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_import_costs_little_more_than_jax(tmp_path: Path):
    # Side by side, first run thrown away (it writes .pyc files); hosts are shared, so medians.
    statements = ["import energax", VERBS, "import jax"]
    rounds = [[cpu_seconds(code, tmp_path) for code in statements] for _ in range(7)][1:]
    ours, verbs, jax = (statistics.median(side) for side in zip(*rounds, strict=True))
    assert ours <= 1.6 * jax, f"import energax {ours:.2f} s of CPU, import jax {jax:.2f} s"
    # 1.5 when measured alone; the limit leaves room for a busy machine
    assert verbs <= 2.0 * jax, f"its verbs {verbs:.2f} s of CPU, import jax {jax:.2f} s"
