"""Is `sample` with its defaults ever wrong without saying so?

`python -m benchmarks.targets [NAME ...] [--seeds N]` runs some of the targets.
"""

import argparse
import dataclasses
import json
import multiprocessing
import sys
import time
import warnings

from benchmarks._timing import Options, Report, say

SEEDS = 5
LEVEL = 1e-3  # of a target's run, shared among its quantities
CPU_SECONDS = 60.0
RARE = 10.0  # expected number of draws off the constant value, up to which seeing none is no fault


@dataclasses.dataclass
class Run:
    """One call of `ex.sample`: `worst` is the largest |error| in its stated standard errors."""

    target: str
    kind: str
    size: int
    unimodal: bool
    has_moments: bool
    seed: int
    reliable: bool
    right: bool
    worst: float
    allowed: float
    what: str
    sampler: str
    evaluations: int
    cpu: float
    reasons: list[str]

    @property
    def silent(self) -> bool:
        """Wrong, and called reliable."""
        return self.reliable and not self.right


def run(options: Options) -> Report:
    from benchmarks import _targets

    runs = measure(_targets.names(), 1 if options.quick else SEEDS)
    finite = [r for r in runs if r.has_moments]
    good = sum(r.reliable and r.cpu <= CPU_SECONDS for r in finite)
    small = [r for r in finite if r.unimodal and r.size <= 100]
    late = sum(not (r.reliable and r.cpu <= CPU_SECONDS) for r in small)
    share = 100 * (1 - good / len(finite))
    return Report(
        name="targets",
        question=f"{len({r.target for r in runs})} targets of known truth, {len(runs)} runs of "
        "`ex.sample` with its defaults: is it right within its stated error, or says unreliable?",
        timings=[],
        ratios=[],
        limits=[
            ("wrong answers called reliable", float(sum(r.silent for r in runs)), 0.0),
            ("% of runs with finite moments not reliable within 60 CPU s", share, 25.0),
            ("runs of unimodal targets up to 100-d not reliable within 60 CPU s", float(late), 0.0),
        ],
        notes=lines(runs),
    )


def measure(names: list[str], seeds: int) -> list[Run]:
    """Every target in a process of its own, one after the other (compiling is part of the cost)."""
    runs = []
    for name in names:
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(sender, name, seeds), daemon=True)
        process.start()
        sender.close()
        try:
            found = [Run(**each) for each in json.loads(receiver.recv())]
        except EOFError:
            raise RuntimeError(f"target {name!r} failed; its traceback is above") from None
        process.join()
        runs += found
        say(lines(found)[0])
    return runs


def lines(runs: list[Run]) -> list[str]:
    """One line a target."""
    out = []
    for name in dict.fromkeys(r.target for r in runs):
        some = [r for r in runs if r.target == name]
        silent = sum(r.silent for r in some)
        worst = max(some, key=lambda r: r.worst if r.reliable else 0.0)
        reasons = sorted({r.reasons[0][:60] for r in some if not r.reliable})
        out.append(
            f"{'WRONG ' * bool(silent)}{name} ({some[0].kind}, {some[0].size}-d): "
            f"{sum(r.reliable for r in some)} of {len(some)} reliable, {silent} wrong among them; "
            f"{worst.worst:.1f} of {worst.allowed:.1f} errors at {worst.what}; "
            f"{max(r.cpu for r in some):.1f} CPU s; {'/'.join(sorted({r.sampler for r in some}))}"
            + (f"; unreliable: {' | '.join(reasons)}" if reasons else "")
        )
    return out


def _serve(pipe, name: str, seeds: int) -> None:
    from benchmarks import _targets

    target = _targets.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [dataclasses.asdict(_one(target, seed)) for seed in range(seeds)]
    pipe.send(json.dumps(found))


def _one(target, seed: int) -> Run:
    import numpy as np
    from scipy.stats import norm

    import energax as ex

    cpu = time.process_time()
    draws = ex.sample(target.energy, 1_000, key=ex.random.key(seed))
    cpu = time.process_time() - cpu
    z, what = np.zeros(1), ["nothing"]
    if target.has_moments:
        pairs = [("mean", draws.mean, draws.mcse_mean, target.mean)]
        if not target.heavy:
            pairs.append(("sd", draws.sd, draws.mcse_sd, target.sd))
        z, what = [], []
        for field, value, error, truth in pairs:
            value, error = _flat(value), _flat(error)
            # Float32 sums and rounding: a millionth of the sd is no error worth a word.
            z.append(abs(value - truth) / (error + 1e-6 * (target.sd + abs(truth)) + 1e-12))
            # A coordinate reported as constant has no error bar; rare values may go unseen.
            rare = _flat(draws.constant).astype(bool) & (
                target.sd**2 * draws.ess_log_density < RARE
            )
            z[-1] = np.where(rare, 0.0, z[-1])
            what += [f"{field} {i}" for i in range(len(truth))]
        if target.modes is not None:
            z.append(_mode_errors(draws, target))
            what += [f"weight {i}" for i in range(len(target.weights))]
        z = np.concatenate(z)
    z = np.nan_to_num(z, nan=np.inf)
    allowed = float(norm.isf(LEVEL / 2 / len(z)))
    return Run(
        target=target.name,
        kind=target.kind,
        size=target.size,
        unimodal=target.unimodal,
        has_moments=target.has_moments,
        seed=seed,
        reliable=bool(draws.reliable),
        right=bool(target.has_moments and z.max() <= allowed),
        worst=float(min(z.max(), 1e9)),
        allowed=allowed,
        what=what[int(np.argmax(z))],
        sampler=draws.sampler,
        evaluations=draws.num_evaluations,
        cpu=cpu,
        reasons=list(draws.reasons),
    )


def _flat(value):
    import jax
    import numpy as np

    leaves = jax.tree.leaves(value)
    return np.concatenate([np.asarray(leaf, float).ravel() for leaf in leaves])


def _mode_errors(draws, target):
    """|weight − truth| of each mode in standard errors, from the thinned draws' own ESS."""
    import jax
    import numpy as np

    from energax import diagnostics

    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(draws.x)]
    rows, size = leaves[0].shape[:2]
    flat = np.concatenate([a.reshape(rows * size, -1) for a in leaves], axis=1).astype(float)
    mode = target.modes(flat).reshape(rows, size, 1)
    inside = (mode == np.arange(len(target.weights))).astype(float)
    summary = diagnostics.summarise(inside, None)
    truth = target.weights
    error = np.sqrt(truth * (1 - truth) / np.clip(summary.ess_bulk, 1, rows * size))
    return abs(inside.mean((0, 1)) - truth) / error


def main() -> int:
    from benchmarks import _targets

    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[[], *_targets.names()])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    arguments = parser.parse_args()
    runs = measure(arguments.names or _targets.names(), arguments.seeds)
    silent = sum(r.silent for r in runs)
    print(f"{len(runs)} runs, {sum(r.reliable for r in runs)} reliable, {silent} wrong among them")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
