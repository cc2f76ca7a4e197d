"""What does a sweep over an Ising model on a sparse graph cost, from 10⁴ to 10⁶ spins?

Couplings of both signs on random graphs of three edges a spin: with ends at random, and with hubs
(each new spin joins three ends of earlier edges, as Batagelj & Brandes 2005 draw the graphs of
Barabási & Albert 1999).
"""

import numpy as np

from benchmarks._timing import Options, Report, Timing, clock, isolated, say, timed

SIZES, EACH, SWEEPS, ROUNDS = (10_000, 100_000, 1_000_000), 3, 10, 5
MOST_MIB, LINEAR = 2048.0, 2.0


def run(options: Options) -> Report:
    timings, limits, notes = [], [], []
    sizes = SIZES[:2] if options.quick else SIZES
    for graph in ("random ends", "hubs"):
        each = {}
        for sites in sizes:
            arguments = {"graph": graph, "sites": sites, "rounds": options.rounds(ROUNDS)}
            found = isolated("benchmarks.ising_sparse:sweeps", arguments, options.threads)
            name = f"{graph}, {sites:,} spins"
            timing = Timing(name, found["first"], found["wall"], found["cpu"], found["peak"])
            timings.append(timing)
            each[sites] = 1e9 * timing.cpu_median / SWEEPS / found["edges"]
            line = (
                f"{name}: {found['edges']:,} edges, most neighbours {found['degree']:,}; graph and "
                f"colours made in {found['made']:.1f} s, {found['colours']} groups; "
                f"{each[sites]:.1f} CPU ns an edge a sweep"
            )
            say(line)
            notes.append(line)
        growth = each[sizes[-1]] / each[sizes[-2]]
        limits.append(
            (f"{graph}: ns an edge, {sizes[-1]:,} spins to {sizes[-2]:,}", growth, LINEAR)
        )
        limits.append((f"{graph}: MiB with {sizes[-1]:,} spins", timings[-1].peak_mib, MOST_MIB))
    return Report(
        name="ising_sparse",
        question=f"{SWEEPS} sweeps of coloured Gibbs, one chain, couplings ±0.3, float32.",
        timings=timings,
        ratios=[],
        limits=limits,
        notes=notes,
    )


def edges_of(graph: str, sites: int) -> np.ndarray:
    """(edges, 2): pairs of sites, each once."""
    rng = np.random.default_rng(0)
    if graph == "random ends":
        pairs = rng.integers(sites, size=(EACH * sites, 2))
    else:
        # End k of the list is copied from a random earlier end, or is the new site itself.
        pairs = np.empty((EACH * sites, 2), int)
        pairs[:, 1] = np.repeat(np.arange(sites), EACH)
        ends, chosen = pairs.reshape(-1), rng.random(EACH * sites)
        for k in range(EACH * sites):
            ends[2 * k] = ends[int(chosen[k] * 2 * k)] if k else 1
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0)


def sweeps(graph: str, sites: int, rounds: int) -> dict:
    """Seconds of the sweeps, and of what comes before them."""
    import jax

    from energax import random
    from energax.energies import Ising
    from energax.samplers import ColouredGibbs
    from energax.samplers._base import run as run_sampler

    rng = np.random.default_rng(1)
    pairs = edges_of(graph, sites)
    couplings = rng.choice([-0.3, 0.3], len(pairs))
    spent = clock()
    energy = Ising(pairs, couplings, num_sites=sites)
    made = spent()[0]
    sampler, key = ColouredGibbs(), random.key(0)
    start = np.where(rng.random((1, sites)) < 0.5, 1.0, -1.0).astype(np.float32)
    state, tuning = sampler.init(energy, start, key=key)

    def once() -> None:
        jax.block_until_ready(
            run_sampler(sampler, energy, state, tuning, key=key, num_steps=SWEEPS, keep=False)
        )

    first = timed(once)[0]
    wall, cpu = zip(*(timed(once) for _ in range(rounds)), strict=True)
    return {
        "first": first - float(np.median(wall)),
        "wall": list(wall),
        "cpu": list(cpu),
        "edges": len(pairs),
        "degree": int(np.bincount(pairs.reshape(-1)).max()),
        "colours": len(energy.colours),
        "made": made,
    }
