"""The diagnostics of what was kept, and what they say against trusting it."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from energax import diagnostics
from energax.samplers.driver._base import Assessment, Kept, ends, evenly
from energax.spaces import AbstractSpace, Point

ESS_NEEDED = 400
"""Bulk and tail ESS below which R-hat and ESS are no evidence themselves (arXiv:1903.08008)."""

MCSE_ALLOWED, _MCSE_LATE = 0.1, 0.05
"""The largest Monte Carlo error of a mean that is called reliable, in standard deviations.

Half as much where an earlier part of the run was dropped: a rare mode, far off, that the earlier
part knew weighs little by rank, and so in R-hat and in bulk and tail ESS, but much in the mean."""

DIVERGENCES_ALLOWED = 1e-3
"""The largest share of all steps that may diverge in a sample that is called reliable."""

_GROWTH_ALLOWED = 2.0


def quick_rhat(kept: Kept, num_superchains: int | None, most: int = 2_048) -> float:
    """R-hat of f and some coordinates, thinned: cheap, to see when a closer look is in vain."""
    worst = 1.0
    for column in [*kept.columns(), kept.principal()]:
        if column.shape[2] == 0:
            continue
        some = column[:, :: max(1, column.shape[1] // most), :: max(1, column.shape[2] // 16)]
        rhat = (
            diagnostics.rhat(some)
            if num_superchains is None
            else diagnostics.nested_rhat(some, num_superchains)
        )
        worst = max(worst, float(rhat.max()))
    return worst


def assess(
    kept: Kept,
    space: AbstractSpace,
    num_superchains: int | None,
    opinion: tuple[np.ndarray, np.ndarray] | None,
    *,
    is_late: bool = False,
) -> Assessment:
    """Diagnostics of what was kept, with a reason for everything that speaks against it.

    **Arguments:** `opinion`: means of x, flat, found without chains, and their standard errors;
    `is_late`: whether an earlier part of the run was dropped.
    """
    columns = kept.columns()
    watched_columns = [*columns, kept.principal()]
    parts = [diagnostics.summarise(c, num_superchains) for c in watched_columns]
    summary = diagnostics.Summary(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(diagnostics.Summary)
        }
    )
    watched = ~summary.is_constant
    num_chains = kept.log_density.shape[1]
    ess = np.maximum(np.minimum(summary.ess_bulk, summary.ess_tail), ESS_NEEDED)
    limit = diagnostics.rhat_limit(
        int(watched.sum()), num_chains, ess, num_superchains=num_superchains
    )
    name = _names(kept)

    def worst(values, best=np.argmax) -> int:
        fill = -np.inf if best is np.argmax else np.inf
        return int(best(np.where(watched, values, fill)))

    reasons = []
    moved = _moved(columns)
    if not moved.any():
        reasons.append(
            "no chain ever moved: f may be finite or high only in a tiny region; give initial= "
            "points inside it, a smaller step, or another sampler"
        )
    elif not moved.all():
        stuck = ", ".join(map(str, np.flatnonzero(~moved)[:5]))
        reasons.append(
            f"{int((~moved).sum())} of {num_chains} chains never moved (chain {stuck}): they are "
            "stuck where they started; give other initial= points or run a longer warm-up"
        )
    lost = ~np.isfinite(kept.log_density)
    if lost.any():
        reasons.append(
            f"f is not finite at {int(lost.sum())} of {lost.size} draws: give initial= points "
            "where it is finite, or mend f"
        )
    if watched.any():
        i = worst(summary.rhat / limit)
        if summary.rhat[i] > limit[i]:
            more = int((summary.rhat > limit)[watched].sum()) - 1
            reasons.append(
                f"chains disagree: R-hat {summary.rhat[i]:.4g} over the limit {limit[i]:.4g} at "
                f"{name(i)}{f' and {more} more' if more else ''}; run longer (max_evaluations=), "
                "or the density has several modes that plain chains do not cross"
            )
        for kind, ess in (("bulk", summary.ess_bulk), ("tail", summary.ess_tail)):
            i = worst(ess, np.argmin)
            if ess[i] < ESS_NEEDED:
                reasons.append(
                    f"too few effective draws: {kind} ESS {ess[i]:.0f} of the {ESS_NEEDED} needed "
                    f"at {name(i)}; run longer (max_evaluations=) or use a faster mixing sampler"
                )
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.where(summary.sd > 0, summary.mcse_mean / summary.sd, np.inf)
        i, allowed = worst(error), _MCSE_LATE if is_late else MCSE_ALLOWED
        if error[i] > allowed:
            reasons.append(
                f"the mean of {name(i)} is known to {error[i]:.2g} sd only, {allowed} is "
                "allowed; run longer (max_evaluations=)"
            )
    if opinion is not None:
        mean, std_err = opinion
        here, own_error, sd = (
            a[1 : 1 + len(mean)] for a in (summary.mean, summary.mcse_mean, summary.sd)
        )
        gap = abs(mean - here)
        error = np.hypot(std_err, own_error) + 1e-6 * (1 + abs(mean))
        i = int(np.argmax(np.where(gap > MCSE_ALLOWED * sd, gap / error, 0)))
        if gap[i] > 3.5 * error[i] and gap[i] > MCSE_ALLOWED * sd[i]:
            reasons.append(
                f"chains miss a part: importance sampling puts the mean of {name(i + 1)} at "
                f"{mean[i]:.4g} ± {std_err[i]:.2g}, they at {summary.mean[i + 1]:.4g}; the density "
                "has several modes that plain chains seldom cross"
            )
    growth, i = _growth(columns, space)
    if growth > _GROWTH_ALLOWED:
        reasons.append(
            f"chains drift off: the spread of {name(i)} grew {growth:.3g}-fold from the first half "
            "of the run to the second; exp(f) may have no finite integral, or burn-in is not over"
        )
    largest = float(np.max(limit, initial=1.0, where=watched))
    return Assessment(kept, summary, largest, reasons)


def kernel_reasons(name: str, is_exact: bool, num_chains: int, share_divergent: float) -> list[str]:
    """What is wrong whatever the draws look like, and however long the run."""
    reasons = []
    if num_chains == 1:
        reasons.append("there is only one chain, so no disagreement can be seen: num_chains=8")
    if not is_exact:
        reasons.append(
            f"{name} is unadjusted: its step-size bias is not measured; use MALA(), or compare "
            "runs at two step sizes yourself"
        )
    if share_divergent > DIVERGENCES_ALLOWED:
        reasons.append(
            f"{100 * share_divergent:.2g} % of the steps met an f that is NaN or +inf, or an "
            "energy jump over 1000: what lies there is not explored; mend f (-inf is the value "
            "outside the support) or take smaller steps"
        )
    return reasons


def _moved(columns: list[np.ndarray]) -> np.ndarray:
    """Which chains ever changed x."""
    moved = np.zeros(columns[0].shape[0], bool)
    for column in columns[1:]:
        for i in range(column.shape[2]):
            if moved.all():
                break
            moved |= (column[:, :, i] != column[:, :1, i]).any(1)
    return moved


_COMPARED = 1_024  # points of either run
_NEIGHBOURS = 40
_SHARE_LEFT = 0.05


def forgotten(kept: Kept, earlier: Kept) -> int:
    """How many chains of an earlier run were, at usual density, where hardly a draw is now.

    Then the earlier run is no burn-in: chains had been in a mode that was left for good. A chain
    counts if a tenth of its usual points are `left_behind`.
    """
    usual, off, _ = _left(kept, earlier)
    return int((off.sum(0) > 0.1 * np.maximum(usual.sum(0), 1)).sum())


def left_behind(kept: Kept, earlier: Kept) -> Point | None:
    """The points of usual density of an earlier run where hardly a draw is now, (num, *event).

    A point is off if of its 40 nearest neighbours among the draws of both runs, as many of each,
    less than 5 % are of the later one (Schilling 1986, "Multivariate two-sample tests based on
    nearest neighbors"). None if there are none.
    """
    _, off, earlier = _left(kept, earlier)
    if not off.any():
        return None
    return jax.tree.unflatten(earlier.structure, [a[off] for a in earlier.leaves])


def _left(kept: Kept, earlier: Kept) -> tuple[np.ndarray, np.ndarray, Kept]:
    """(which points of `earlier` have usual density; which of those are off; the points)."""
    num = max(8, _COMPARED // kept.log_density.shape[1])
    least = np.quantile(kept.log_density, 0.05)
    kept, earlier = kept.some(num), earlier.some(num)
    usual = (earlier.log_density >= least) & np.isfinite(least)
    off = np.zeros_like(usual)
    now, then = _flat_rows(kept), _flat_rows(earlier)  # (steps, chains, coordinates)
    scale = np.sqrt(now.var(0).mean(0))
    scale = np.maximum(scale, 0.25 * now.std((0, 1)))
    scale = np.maximum(scale, 0.1 * then.std((0, 1)))
    some = scale > 0
    if not some.any():
        return usual, off, earlier
    now, then = now[..., some] / scale[some], then[..., some] / scale[some]
    draws, before = (a.reshape(-1, a.shape[2]) for a in (now, then))
    # Some of them where they are many, so that many chains take no longer than eight.
    draws, before = (a[evenly(len(a), _COMPARED)] for a in (draws, before))
    both = np.concatenate([draws, before])
    is_now = np.arange(len(both)) < len(draws)
    for chain in np.flatnonzero(usual.any(0)):
        points = then[usual[:, chain], chain]
        square = (points**2).sum(1)[:, None] + (both**2).sum(1) - 2 * points @ both.T
        near = np.argpartition(square, min(_NEIGHBOURS, len(both) - 1), axis=1)[:, :_NEIGHBOURS]
        new = is_now[near].sum(1) / len(draws)
        old = (~is_now[near]).sum(1) / len(before)
        off[usual[:, chain], chain] = new < _SHARE_LEFT * (new + old)
    return usual, off, earlier


def _flat_rows(kept: Kept) -> np.ndarray:
    columns = [c.astype(np.float64) for c in kept.columns()[1:]]
    return np.concatenate(columns, axis=2).swapaxes(0, 1)


def _growth(columns: list[np.ndarray], space: AbstractSpace) -> tuple[float, int]:
    """(the largest growth of the spread of an unbounded coordinate between halves, its number)."""
    low, high = ends(space)
    unbounded = np.isinf(low) | np.isinf(high)
    worst, where, at = 1.0, 1, 0
    for column in columns[1:]:
        half, size = column.shape[1] // 2, column.shape[2]
        for i in np.flatnonzero(unbounded[at : at + size]) if half > 1 else []:
            values = column[:, :, i].astype(np.float64)
            early, late = values[:, :half].std(), values[:, half:].std()
            growth = late / early if early > 0 else 1.0
            if growth > worst:
                worst, where = float(growth), 1 + at + int(i)
        at += size
    return worst, where


def _names(kept: Kept) -> Callable[[int], str]:
    """The name of quantity number i: "f", "x[3, 1]", on a record "x['age'][2]"; then directions."""
    labels: list[str] = ["x"] * len(kept.leaves)
    if len(kept.leaves) > 1 or kept.structure != jax.tree.structure(0):
        labels = [f"x[{k!r}]" for k in jax.tree.unflatten(kept.structure, kept.leaves)]

    def name(i: int) -> str:
        if i == 0:
            return "f"
        i -= 1
        for label, leaf in zip(labels, kept.leaves, strict=True):
            size = int(np.prod(leaf.shape[2:]))
            if i < size:
                place = ", ".join(str(int(j)) for j in np.unravel_index(i, leaf.shape[2:]))
                return f"{label}[{place}]" if place else label
            i -= size
        return f"principal direction {i + 1}"

    return name
