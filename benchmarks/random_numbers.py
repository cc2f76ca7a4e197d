"""What does a random number cost with energax's key, and with JAX's default one?"""

from benchmarks._timing import Contender, Options, Report, race, ratio

NUMBERS = 4_000_000


def run(options: Options) -> Report:
    contenders = [
        Contender(f"{kind}, {who}", f"benchmarks.random_numbers:{who}", {"kind": kind})
        for kind in ("uniform", "normal")
        for who in ("energax", "jax", "torch")
    ]
    contenders += [
        Contender("normal, energax.random.normal", "benchmarks.random_numbers:fast_normal")
    ]
    fast = "normal, energax.random.normal"
    timings = race(contenders, options.rounds(7), threads=1)
    return Report(
        name="random_numbers",
        question=f"{NUMBERS:,} float32 random numbers at once, one thread: `energax.random.key` "
        "beside JAX's default key (Threefry) and torch.",
        timings=timings,
        ratios=[
            ratio(timings, "uniform, jax", "uniform, energax", at_least=8.0, clock="cpu"),
            ratio(timings, "uniform, torch", "uniform, energax", clock="cpu"),
            ratio(timings, "normal, jax", "normal, energax", clock="cpu"),
            ratio(timings, "normal, jax", fast, at_least=4.0, clock="cpu"),
            ratio(timings, "normal, torch", fast, clock="cpu"),
        ],
        notes=[f"{t.name}: {1e9 * t.cpu_median / NUMBERS:.1f} ns of CPU a number" for t in timings],
    )


def energax(kind: str):
    import energax.random

    return _of_key(kind, energax.random.key(0))


def fast_normal():
    import jax

    from energax import random

    key = random.key(0)
    draw = jax.jit(lambda key: random.normal(key, (NUMBERS,)))
    return lambda: draw(key).block_until_ready()


def jax(kind: str):
    import jax

    return _of_key(kind, jax.random.key(0))


def torch(kind: str):
    import torch

    draw = {"uniform": torch.rand, "normal": torch.randn}[kind]
    return lambda: draw(NUMBERS)


def _of_key(kind: str, key):
    import jax

    draw = jax.jit(lambda key: getattr(jax.random, kind)(key, (NUMBERS,)))
    return lambda: draw(key).block_until_ready()
