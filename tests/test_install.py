"""scripts/install.sh says plainly what a machine lacks, and exits non-zero then."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "install.sh"

# Stand-ins for python3, each with one thing missing. `-c` tells whether a version is enough or a
# module is there by its exit status, as Python does.
OLD = '[ "$1" = --version ] && echo "Python 3.9.2" && exit 0; exit 1'
NO_ENSUREPIP = """
case "$2" in *version_info\\ *) exit 0;; *"%d.%d"*) echo 3.12;; *) exit 1;; esac
"""
NO_NETWORK = """
case "$*" in
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
*"pip install"*) echo "ERROR: No matching distribution found" >&2; exit 1;;
*"%d.%d"*) echo 3.12;;
esac
"""


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "Python 3.11 or newer is needed; found: no python3 at all"),
        (OLD, "Python 3.11 or newer is needed; found: Python 3.9.2"),
        (NO_ENSUREPIP, "apt-get install python3.12-venv"),
        (NO_NETWORK, "the package index was not reached"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, python: str | None, said: str):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("mkdir", "cp"):
        (tools / tool).symlink_to(f"/bin/{tool}")
    if python is not None:
        (tools / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (tools / "python3").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(
        ["/bin/sh", SCRIPT, ".venv", "energax"],
        cwd=tmp_path,
        env={**environment, "PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert said in done.stderr
