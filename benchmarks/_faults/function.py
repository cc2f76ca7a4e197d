"""A training of the user's own function: `python -m benchmarks._faults.function fit|resume`.

f is a double well in the plane that is NaN, or −infinity, where x₀ ≥ 6. What happens is told as the
command line tells it: one JSON object on stdout; an error in one line on stderr.
"""

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path

import jax.numpy as jnp

import energax as ex
from benchmarks._faults.trainings import BATCH, EVERY, STEPS
from energax import objectives, samplers

EDGE = 6.0
OBJECTIVES = {
    "pcd": lambda: objectives.PersistentCD(num_steps=2, num_chains=50, sampler=samplers.MALA()),
    "denoising": objectives.DenoisingScoreMatching,
    "nce": objectives.NoiseContrastive,
}


def nan_beyond(params, x):
    return _well(params, x) + 0.1 * jnp.sqrt(EDGE - x[0])


def infinite_beyond(params, x):
    return _well(params, x) + 0.1 * jnp.log(jnp.maximum(EDGE - x[0], 0.0))


def _well(params, x):
    return -params["a"] * jnp.sum((x**2 - 1) ** 2) + params["b"] @ x


def start(beyond: str) -> ex.energies.AbstractEnergy:
    f = {"nan": nan_beyond, "infinite": infinite_beyond}[beyond]
    params = {"a": jnp.asarray(0.5), "b": jnp.asarray([0.1, -0.2])}
    return ex.from_log_density(f, ex.Real((2,)), params=params)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("fit", "resume"))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--objective", choices=OBJECTIVES, required=True)
    parser.add_argument("--beyond", choices=("nan", "infinite"), default="nan")
    parser.add_argument("--recover", action="store_true")
    parser.add_argument("--window", type=int, help="rows in memory at a time")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ex.UnreliableResult)  # the answer says so
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    try:
        run = train(arguments)
        run.save(arguments.out)
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    told = [dataclasses.asdict(each) for each in run.recoveries]
    print(json.dumps({"reliable": run.reliable, "reasons": run.reasons, "recoveries": told}))
    return 0


def train(arguments: argparse.Namespace) -> ex.Fit:
    energy, folder = start(arguments.beyond), arguments.out / "checkpoints"
    if arguments.window:
        rows = ex.io.open_rows(arguments.data)
    else:
        rows = ex.io.read_data(arguments.data)
    # A process killed before its first checkpoint starts anew.
    if arguments.what == "resume" and any(folder.glob("step-*.json")):
        return ex.resume(folder, energy, data=rows, checkpoint_every=EVERY)
    return ex.fit(
        energy,
        rows,
        OBJECTIVES[arguments.objective](),
        key=ex.random.key(0),
        num_steps=STEPS,
        batch_size=BATCH,
        window_rows=arguments.window,
        recover=arguments.recover,
        checkpoint_dir=folder,
        checkpoint_every=EVERY,
    )


if __name__ == "__main__":
    sys.exit(main())
