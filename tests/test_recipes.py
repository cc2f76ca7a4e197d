"""Each recipe runs to its end, at a fraction of its length."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "recipes"
SHORT = {
    "conv_images.py": ["--steps", "20"],
    "jem_digits.py": ["--steps", "20"],
    "potts_protein.py": ["--sequences", "300"],
    "spikes.py": ["--bins", "1000"],
    "tabular.py": ["--steps", "200"],
    "toys_2d.py": ["--steps", "100", "--objective", "DenoisingScoreMatching", "PersistentCD"],
}


def test_every_recipe_is_run_and_listed():
    assert {path.name for path in FOLDER.glob("*.py")} == set(SHORT)
    listed = (FOLDER / "README.md").read_text()
    assert all(f"({name})" in listed for name in SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_recipe_runs(name, tmp_path):
    picture = ["--out", "picture.png"] if name in ("toys_2d.py", "conv_images.py") else []
    command = [sys.executable, "-W", "ignore", str(FOLDER / name), *SHORT[name], *picture]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    assert (tmp_path / "picture.png").exists() == bool(picture)
