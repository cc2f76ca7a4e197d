"""The trainings that faults are put into: small, cheap, of five kinds of objective."""

import dataclasses
import sys
from pathlib import Path

import numpy as np

STEPS, EVERY = 600, 20  # updates, and updates between checkpoints
ROWS, BATCH, HIDDEN = 300, 50, 8


@dataclasses.dataclass(frozen=True)
class Training:
    """`rows`: of which data. `words`: the options of `energax fit`; empty for a function of the
    user's own, which goes through `ex.fit` and `ex.resume` with `objective`."""

    name: str
    rows: str
    words: tuple[str, ...] = ()
    objective: str = ""

    @property
    def is_command(self) -> bool:
        return bool(self.words)


def _command(name: str, rows: str, model: str, objective: str) -> Training:
    words = "--model", model, "--objective", objective, "--hidden", str(HIDDEN)
    words += "--num-steps", str(STEPS), "--checkpoint-every", str(EVERY)
    return Training(name, rows, (*words, "--batch-size", str(BATCH), "--json"))


COMMANDS = (
    _command("RBM of bits, PCD", "bits", "rbm", "pcd:2"),
    _command("RBM of spins, PCD", "spins", "rbm", "pcd:1"),
    _command("Ising, pseudo-likelihood", "spins", "ising", "pseudolikelihood"),
    _command("MLP, PCD by Langevin", "points", "mlp", "pcd:5"),
    _command("MLP, denoising", "points", "mlp", "denoising"),
    _command("MLP, NCE", "points", "mlp", "nce:2"),
)
FUNCTIONS = tuple(
    Training(f"a function, {shown}", "points", objective=objective)
    for shown, objective in (("PCD by MALA", "pcd"), ("denoising", "denoising"), ("NCE", "nce"))
)
TRAININGS = (*COMMANDS, FUNCTIONS[0])


def fit(training: Training, data: Path, out: Path, *options: str) -> list[str]:
    """The command that trains."""
    if training.is_command:
        return [*_PROGRAM, "fit", str(data), "--out", str(out), *training.words, *options]
    return [*_SCRIPT, "fit", str(data), str(out), "--objective", training.objective, *options]


def resume(training: Training, data: Path, out: Path) -> list[str]:
    """The command that goes on."""
    if training.is_command:
        return [*_PROGRAM, "resume", str(out), "--json"]
    return [*_SCRIPT, "resume", str(data), str(out), "--objective", training.objective]


_PROGRAM = sys.executable, "-c", "from energax.cli import main; main()"
_SCRIPT = sys.executable, "-m", "benchmarks._faults.function"


def rows_of(kind: str) -> np.ndarray:
    """bits: 8 columns, the last four copies of the first that err in a tenth; spins: the same;
    points: two clouds in the plane."""
    rng = np.random.default_rng(0)
    if kind == "points":
        signs = rng.choice([-1.0, 1.0], (ROWS, 1))
        return (0.4 * rng.normal(size=(ROWS, 2)) + signs).astype(np.float32)
    bits = (rng.random((ROWS, 8)) < 0.3).astype(np.float32)
    bits[:, 4:] = np.where(rng.random((ROWS, 4)) < 0.1, 1 - bits[:, :4], bits[:, :4])
    return bits if kind == "bits" else 2 * bits - 1


def write(rows: np.ndarray, path: Path) -> None:
    """Rows as a data file; NaN in a table is written as it is."""
    names = [f"column{i}" for i in range(rows.shape[1])]
    match path.suffix:
        case ".npy":
            np.save(path, rows)
        case ".npz":
            np.savez(path, rows=rows)
        case ".csv":
            np.savetxt(path, rows, "%.9g", ",", header=",".join(names), comments="")
        case ".parquet":
            import pyarrow
            import pyarrow.parquet

            columns = {name: rows[:, i] for i, name in enumerate(names)}
            pyarrow.parquet.write_table(pyarrow.table(columns), path)
