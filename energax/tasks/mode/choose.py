"""`mode`: the most probable point, by the method that proves most at a bearable price."""

import time
from typing import Any

import jax
import numpy as np

from energax.energies._base import AbstractEnergy, check_scalar
from energax.random import as_key
from energax.results import Verdict
from energax.spaces import Point
from energax.tasks.mode._base import Found, Mode, energies_of
from energax.tasks.mode.annealing import by_annealing
from energax.tasks.mode.ascent import by_ascent
from energax.tasks.mode.cut import by_minimum_cut
from energax.tasks.mode.listing import by_listing

METHODS = ("auto", "enumeration", "minimum cut", "annealing", "ascent")
_LISTED = 2**16  # states that are listed before anything else is tried


def mode(
    energy: AbstractEnergy,
    *,
    key: Any,
    method: str = "auto",
    num_chains: int = 32,
    num_sweeps: int | None = None,
    initial: Point | None = None,
) -> Mode:
    """The most probable point, argmax p(x) = argmin E(x), with a verdict.

    - "enumeration": every state of a finite space, up to 2²⁴. Exact.
    - "minimum cut": two values a site and pairs of sites (`Ising`, two-valued `Potts`, and what
      conditions, powers and products make of them), if every loop has an even number of negative
      couplings; fields of any sign. Exact on any graph (Greig, Porteous & Seheult 1989).
    - "annealing": chains of the energy's own sampler, cooled at a geometric schedule of β
      (Kirkpatrick, Gelatt & Vecchi 1983), for any discrete space. Proves nothing.
    - "ascent": uphill by the gradient from 256 points, on Real and Box. Proves a local mode.
    - "auto": enumeration up to 2¹⁶ states, else a minimum cut where it applies, else annealing or
      on continuous spaces ascent.

    Of a continuous density the mode depends on the coordinates; and of many sites it may look like
    no draw. To be right site by site take the most probable value of each: `denoise(...).x`.

    **Arguments:** `num_chains`: of annealing. `num_sweeps`: of each chain over all sites; None
    takes 1,000, or as many as 8 million evaluations allow. `initial`: points to start from,
    (num_chains, *event) for annealing, any number for ascent; None scatters them.

    **Returns:** `Mode`. What is only searched for comes with `reliable=False`, reasons, and an
    `UnreliableResult` warning.

    **Raises:** ValueError for a method that does not apply to this energy, with the reason; for
    arguments out of range, starts outside the space, or where f is NaN.
    """
    begun = time.perf_counter()
    check_scalar(energy)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    for name, value in (("num_chains", num_chains), ("num_sweeps", num_sweeps)):
        if value is not None and (not isinstance(value, int | np.integer) or value < 1):
            raise ValueError(f"{name}: expected a whole number from 1, got {value!r}")
    key = as_key(key)
    if initial is not None:
        initial = energy.space.validate(initial, batch=True, name="initial")
        num_chains = jax.tree.leaves(initial)[0].shape[0]
    annealing = {"key": key, "num_chains": num_chains, "num_sweeps": num_sweeps}
    if method == "auto":
        found = _by_default(energy, annealing, initial)
    elif method == "enumeration":
        found = by_listing(energy)
    elif method == "minimum cut":
        found = by_minimum_cut(energy)
    elif method == "annealing":
        found = by_annealing(energy, **annealing, initial=initial)
    else:
        found = by_ascent(energy, key=key, initial=initial)
    if isinstance(found, str):
        raise ValueError(
            f"method={method!r} does not apply to this energy: {found}; method='auto' takes one "
            "that does"
        )
    value = float(energies_of(energy, jax.tree.map(lambda a: a[None], found.x))[0])
    if np.isnan(value) or value == -np.inf:
        raise ValueError(
            f"the energy gives E = {value} at the point that was found; mend the energy there"
        )
    Verdict(found.reasons).warn("the mode")
    return Mode(
        x=found.x,
        energy=value,
        gap=found.gap,
        exact=found.exact,
        unique=found.unique,
        method=found.method,
        agreement=found.agreement,
        num_evaluations=found.num_evaluations,
        seconds=time.perf_counter() - begun,
        reliable=not found.reasons,
        reasons=found.reasons,
    )


def _by_default(energy: AbstractEnergy, annealing: dict[str, Any], initial: Any) -> Found | str:
    space = energy.space
    if space.num_states is not None and space.num_states <= _LISTED:
        return by_listing(energy)
    if not space.is_continuous:
        found = by_minimum_cut(energy)
        return (
            by_annealing(energy, **annealing, initial=initial) if isinstance(found, str) else found
        )
    found = by_ascent(energy, key=annealing["key"], initial=initial)
    if isinstance(found, str):
        return f"{found}, and no other method looks for modes there"
    return found
