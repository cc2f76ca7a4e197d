"""Whether chains can be trusted: effective sample sizes, R-hat, standard errors.

Pure NumPy in float64. Arrays of draws are (num_chains, num_draws, num_quantities); every function
of them works on all quantities at once, in blocks that keep memory bounded, and gives one number a
quantity. Conventions follow Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021),
"Rank-normalization, folding, and localization: an improved R-hat" (arXiv:1903.08008), and agree
with ArviZ but for the standard error of the sd (`mcse_sd`) and where ArviZ has no good answer:

- a quantity that is constant over all draws has R-hat 1, ESS the number of draws, and no error;
- one that is constant in every chain but differs between chains (all are stuck) has R-hat inf and
  ESS num_chains;
- one with a NaN or an infinity has R-hat inf, ESS 0, standard error inf (only its mean and sd,
  which do not exist, are NaN);
- fewer than four draws a chain tell nothing: R-hat inf, ESS 0, standard error inf;
- ties get their average rank, and a tail whose indicator never changes is left out of `ess_tail`.
"""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

_BLOCK = 1 << 18  # numbers worked on at once: what a core's cache holds
_TINY = 1e-26  # variances below are rounding, for numbers of order one
_PERFECT = {"rhat": 1.0, "mcse_mean": 0.0, "mcse_sd": 0.0}
_USELESS = {"rhat": np.inf, "mcse_mean": np.inf, "mcse_sd": np.inf}  # ESS 0
_ESS = ("ess_bulk", "ess_tail", "ess_mean", "ess_sd")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What `summarise` finds: (num_quantities,) each; see the functions of these names."""

    mean: np.ndarray
    sd: np.ndarray
    mcse_mean: np.ndarray
    mcse_sd: np.ndarray
    rhat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    is_constant: np.ndarray


def summarise(x: Any, num_superchains: int | None = None) -> Summary:
    """Mean, sd, their standard errors, R-hat, bulk and tail ESS, sharing ranks and transforms.

    **Arguments:**

    - `x`: (num_chains, num_draws, num_quantities).
    - `num_superchains`: if given, R-hat is the nested one (see `nested_rhat`).

    **Returns:** a `Summary`. `sd` divides by draws − 1.

    **Raises:** ValueError if `x` is not 3-d, or the superchains do not divide the chains.
    """
    names = [field.name for field in dataclasses.fields(Summary)]
    return Summary(**_measure(x, names, num_superchains))


def ess_bulk(x: Any) -> np.ndarray:
    """Effective sample size of the rank-normalised draws: how well the bulk is explored.

    ESS = S/τ, τ = −1 + 2 Σ_k (ρ_{2k} + ρ_{2k+1}) with Geyer's initial monotone sequence over split
    chains (arXiv:1903.08008, eq. 10 to 13), at most S log₁₀ S for S draws in all.

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["ess_bulk"])["ess_bulk"]


def ess_tail(x: Any) -> np.ndarray:
    """Effective sample size of the tails: the lesser of those of I(x ≤ q₅%) and I(x ≤ q₉₅%).

    Source: arXiv:1903.08008, section 4.3. Where values repeat, as in discrete spaces, an indicator
    may never change; it is left out, and if neither does, the tail is the bulk. A coordinate of two
    values has but one indicator, so its tail ESS is its bulk ESS, however rare the rarer value.

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["ess_tail"])["ess_tail"]


def ess_mean(x: Any) -> np.ndarray:
    """Effective sample size for the mean: as `ess_bulk`, of the draws themselves.

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["ess_mean"])["ess_mean"]


def ess_sd(x: Any) -> np.ndarray:
    """Effective sample size for the sd: as `ess_bulk`, of (x − mean)² (of x if it has two values).

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["ess_sd"])["ess_sd"]


def mcse_mean(x: Any) -> np.ndarray:
    """Monte Carlo standard error of the mean, sd/√ess_mean.

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["mcse_mean"])["mcse_mean"]


def mcse_sd(x: Any) -> np.ndarray:
    """Monte Carlo standard error of the sd, √(Var(V)/4V) for the variance V = E[d²], d = x − mean.

    The delta method of arXiv:1903.08008, section 4.4, to second order: Var(V) =
    (E[d⁴] − V²)/ess_sd + 16 mcse_mean⁴. The last term matters where d² hardly varies, as for a spin
    of even odds: a mean off by k of its errors takes k² mcse_mean² from V, which four errors of
    this size still hold at k = 4. (ArviZ puts the ESS of x, not of d², in its place.)

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["mcse_sd"])["mcse_sd"]


def rhat(x: Any) -> np.ndarray:
    """R-hat: √((n − 1)/n + B/W) of split chains, the greater of rank-normalised and folded draws.

    B is the variance of the chains' means, W the mean of their variances, n the draws of a split
    chain. The plain one sees chains that differ in location, the folded one (of |x − median|) in
    scale. Source: arXiv:1903.08008, eq. 1 to 4 and 14.

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** (num_quantities,).
    """
    return _measure(x, ["rhat"])["rhat"]


def nested_rhat(x: Any, num_superchains: int) -> np.ndarray:
    """Nested R-hat √(1 + B/W) for many short chains, rank-normalised and folded as in `rhat`.

    B is the variance of the superchains' means, W the mean over superchains of the variance within
    their chains plus that between their (split) chains. Consecutive chains, which should share
    their start, form a superchain; if they do not, chains that hardly move go unseen, unless all
    stand still (inf). Source: Margossian et al. (2024), arXiv:2110.13017, eq. 6 to 8.

    **Arguments:**

    - `x`: (num_chains, num_draws, num_quantities).
    - `num_superchains`: at least 2, a divisor of num_chains.

    **Returns:** (num_quantities,).

    **Raises:** ValueError if the superchains do not divide the chains.
    """
    return _measure(x, ["rhat"], num_superchains)["rhat"]


def rhat_limit(
    num_quantities: int,
    num_chains: int,
    ess: Any = 400.0,
    alpha: float = 0.01,
    num_superchains: int | None = None,
) -> Any:
    """The R-hat that converged chains exceed in any of the quantities with probability ≤ `alpha`.

    max(1.01, √(1 + F/(e − 1))) with F = χ²_{m−1}(1 − α/2K)/(m − 1) for K quantities and m = 2
    num_chains split chains of e = ess/m effective draws each. Once converged, m means of variance
    σ²/e give B = Fσ²/e with F ~ χ²_{m−1}/(m − 1), while E[W] = σ²(1 − 1/e) where n ≫ e; the bound
    is Bonferroni's over K quantities, each plain and folded. Nested: 1 + F/e with m =
    num_superchains. Ranks have lighter tails and the two halves of a chain are not quite
    independent, so it errs to the safe side. (A fixed 1.01 raises a false alarm in nearly every
    converged run of ESS 400.)

    It falls as draws accumulate. To find chains that disagree only a little, give each quantity its
    own attained ESS: `s = summarise(x)`, then `s.rhat <= rhat_limit(K, num_chains, np.maximum(400,
    np.minimum(s.ess_bulk, s.ess_tail)))` beside ESS ≥ 400. A disagreement lowers the ESS too, and
    so raises this limit, which is why both must hold.

    **Arguments:**

    - `num_quantities`: how many R-hats are watched, constant ones left out.
    - `num_chains`: chains that ran, unsplit.
    - `ess`: total effective draws at least attained, a number or (num_quantities,). Two a split
      chain are taken for granted, so that the limit is finite.
    - `num_superchains`: if given, the limit is that of `nested_rhat`.

    **Returns:** a float, or an array of the shape of `ess`.
    """
    from scipy.special import chdtri

    ess = np.asarray(ess, np.float64)
    num_means = num_superchains or 2 * num_chains
    ratio = chdtri(num_means - 1, alpha / (2 * max(num_quantities, 1))) / (num_means - 1)
    effective = np.maximum(ess / num_means, 2.0)
    limit = np.sqrt(1 + ratio / (effective if num_superchains else effective - 1))
    limit = np.maximum(limit, 1.01)
    return limit if ess.ndim else float(limit)


def is_constant(x: Any) -> np.ndarray:
    """Which quantities have one and the same finite value in all draws of all chains.

    **Arguments:** `x`: (num_chains, num_draws, num_quantities). **Returns:** bool array.
    """
    return _measure(x, ["is_constant"])["is_constant"]


def _measure(x: Any, names: list[str], num_superchains: int | None = None) -> dict[str, Any]:
    """The measures `names` of every quantity, block by block of quantities on all cores."""
    from scipy.special import ndtri

    x = np.asarray(x)
    if x.ndim != 3 or x.shape[0] < 1 or x.shape[1] < 1:
        raise ValueError(
            "draws are (num_chains, num_draws, num_quantities) with at least one chain and draw, "
            f"got shape {x.shape}; for one quantity write x[:, :, None]"
        )
    num_chains, num_draws, num_quantities = x.shape
    if num_superchains is not None and (num_superchains < 2 or num_chains % num_superchains):
        raise ValueError(
            f"num_superchains must be at least 2 and divide the {num_chains} chains, "
            f"got {num_superchains}"
        )
    total = 2 * num_chains * (num_draws // 2)
    # Normal scores by Blom (1958) of the average ranks 1, 1.5, 2, ..., total.
    scores = ndtri((np.arange(2, 2 * total + 1) / 2 - 3 / 8) / (total + 1 / 4))
    found = {n: np.empty(num_quantities, bool if n == "is_constant" else float) for n in names}
    size = max(1, _BLOCK // (num_chains * num_draws))

    def work(start: int) -> None:
        block = slice(start, start + size)
        columns = np.array(x[:, :, block].transpose(2, 0, 1), np.float64, order="C")
        with np.errstate(all="ignore"):  # what has no value is given one below
            measured = _measure_block(columns, names, scores, num_superchains)
        for name in names:
            found[name][block] = measured[name]

    starts = range(0, num_quantities, size)
    with ThreadPoolExecutor(max(1, min(len(starts), os.cpu_count() or 1))) as pool:
        list(pool.map(work, starts))
    return found


def _measure_block(x, names, scores, num_superchains) -> dict[str, Any]:
    """`_measure` of one block (quantities, num_chains, num_draws), which it overwrites."""
    num_quantities, num_chains, num_draws = x.shape
    size = num_chains * num_draws
    low, high = x.min((1, 2)), x.max((1, 2))
    finite = np.isfinite(low) & np.isfinite(high)
    x[~finite] = low[~finite] = high[~finite] = 0.0
    huge = np.maximum(abs(low), abs(high))
    unit = np.where(huge > 1e150, huge, 1.0)  # squares must not overflow
    if np.any(unit > 1):
        x, low, high = x / unit[:, None, None], low / unit, high / unit
    constant = low == high
    mean = np.where(constant, low, x.mean((1, 2)))
    # Two values make every transform below an affine one, so that one ESS and one R-hat serve all.
    # A look at the first draws settles most.
    two = ~constant
    for some in (min(num_draws, 32), num_draws):
        left = np.flatnonzero(two)
        part = x[left, :, :some]
        ends = low[left, None, None], high[left, None, None]
        two[left] = np.all((part == ends[0]) | (part == ends[1]), (1, 2))

    spread = np.where(constant, 1.0, np.maximum(high - mean, mean - low))
    y = np.subtract(x, mean[:, None, None], out=x)
    y /= spread[:, None, None]
    variance = np.einsum("qcn,qcn->q", y, y) / size
    sd = np.sqrt(variance * size / (size - 1)) * spread
    sd[constant] = 0.0 if size > 1 else np.nan
    result: dict[str, Any] = {
        "mean": mean * unit,
        "sd": sd * unit,
        "is_constant": constant & finite,
    }
    result["mean"][~finite] = result["sd"][~finite] = np.nan

    fill = _PERFECT if num_draws >= 4 else _USELESS
    ess = size if num_draws >= 4 else 0
    for name in names:
        if name not in result:
            result[name] = np.full(num_quantities, fill.get(name, float(ess)))
            result[name][~finite] = _USELESS.get(name, 0.0)
    if num_draws < 4:
        return result

    wanted = set(names)
    needs = wanted | {f"ess_{n[5:]}" for n in names if n.startswith("mcse")}
    if "mcse_sd" in needs:
        needs.add("ess_mean")
    for which, measure in ((two, _of_two_values), (~two & ~constant, _of_many_values)):
        rows = np.flatnonzero(which)
        if not len(rows) or not needs & {*_ESS, "rhat"}:
            continue
        v = y if len(rows) == num_quantities else y[rows]
        got = measure(v, needs, scores, num_superchains)
        if "mcse_mean" in wanted:
            got["mcse_mean"] = (sd * unit)[rows] / np.sqrt(got["ess_mean"])
        if "mcse_sd" in wanted:
            square = v * v
            second, fourth = variance[rows], np.einsum("qcn,qcn->q", square, square) / size
            error = np.maximum(fourth - second**2, 0.0) / got["ess_sd"]
            error += 16 * (second / got["ess_mean"]) ** 2
            got["mcse_sd"] = np.sqrt(error / (4 * second)) * (spread * unit)[rows]
        for name in wanted & got.keys():
            result[name][rows] = got[name]
    return result


def _split(y: np.ndarray) -> np.ndarray:
    """(quantities, chains, draws) to (quantities, 2, chains, draws // 2): halves apart."""
    half = y.shape[2] // 2
    return np.stack([y[:, :, :half], y[:, :, -half:]], axis=1)


def _of_two_values(y, needs, scores, num_superchains) -> dict[str, Any]:
    """R-hat and all ESS of quantities that take two values: those of y itself."""
    moments = _Moments(_split(y))
    got: dict[str, Any] = {}
    if "rhat" in needs:
        got["rhat"] = moments.rhat(num_superchains)
    if needs & set(_ESS):
        got.update(dict.fromkeys(_ESS, moments.ess()))
    return got


def _of_many_values(y, needs, scores, num_superchains) -> dict[str, Any]:
    """R-hat and ESS of quantities that take more than two values, of order one."""
    got: dict[str, Any] = {}
    parts = _split(y)
    flat = parts.reshape(len(y), -1)
    if needs & {"ess_bulk", "ess_tail", "rhat"}:
        z, order = _normal_scores(flat, scores)
        bulk = _Moments(z.reshape(parts.shape))
        if "rhat" in needs:
            middle = _order_statistic(flat, order, 0.5)
            folded, _ = _normal_scores(abs(flat - middle[:, None]), scores)
            got["rhat"] = np.maximum(
                bulk.rhat(num_superchains),
                _Moments(folded.reshape(parts.shape)).rhat(num_superchains),
            )
        if needs & {"ess_bulk", "ess_tail"}:
            got["ess_bulk"] = bulk.ess()
        if "ess_tail" in needs:
            tail = np.full(len(y), np.inf)
            for p in (0.05, 0.95):
                if y.shape[2] % 2:  # the split leaves the middle draw out, the quantile does not
                    edge = np.quantile(y.reshape(len(y), -1), p, axis=1)
                else:
                    edge = _order_statistic(flat, order, p)
                inside = _Moments((parts <= edge[:, None, None, None]).astype(np.float64))
                share = inside.mean.mean((1, 2))
                tail = np.minimum(tail, np.where((share > 0) & (share < 1), inside.ess(), np.inf))
            got["ess_tail"] = np.where(np.isfinite(tail), tail, got["ess_bulk"])
    if "ess_mean" in needs:
        got["ess_mean"] = _Moments(parts).ess()
    if "ess_sd" in needs:
        got["ess_sd"] = _Moments(parts * parts).ess()
    return got


def _normal_scores(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Φ⁻¹((average rank − 3/8)/(S + 1/4)) along the rows of (quantities, S), and the rows' order.

    Each number's place is written over its last bits (a part in 10⁹ at most) and the numbers
    themselves are sorted, in a third of the time of an argsort.
    """
    num, size = y.shape
    mask = (1 << (size - 1).bit_length()) - 1
    keys = y.view(np.int64) & ~mask
    keys |= np.arange(size)
    keys.view(np.float64).sort(axis=1)
    order = keys & mask
    keys &= ~mask
    value = keys.view(np.float64)
    new = np.ones((num, size), bool)  # where a run of equal values starts
    np.not_equal(value[:, 1:], value[:, :-1], out=new[:, 1:])
    z = np.empty_like(y)
    place = np.add(order, size * np.arange(num)[:, None], out=keys)
    if new.all():
        z.reshape(-1)[place] = scores[::2]
    else:
        start = np.flatnonzero(new)
        length = np.diff(start, append=new.size)
        row_start = np.repeat(size * np.arange(num), new.sum(1))
        z.reshape(-1)[place.reshape(-1)] = np.repeat(
            scores[2 * (start - row_start) + length - 1], length
        )
    return z, order


def _order_statistic(y: np.ndarray, order: np.ndarray, p: float) -> np.ndarray:
    """The p-quantile of each row, linear between order statistics (NumPy's default)."""
    place = p * (y.shape[1] - 1)
    below = int(place)
    rows = np.arange(len(y))
    a, b = y[rows, order[:, below]], y[rows, order[:, min(below + 1, y.shape[1] - 1)]]
    return a + (b - a) * (place - below)


class _Moments:
    """Means and variances of split chains `a`: (quantities, 2, chains, n), of order one."""

    def __init__(self, a: np.ndarray):
        self.mean = a.mean(3)
        self.centred = a - self.mean[..., None]
        self.within = np.einsum("qhcn,qhcn->q", self.centred, self.centred) / a[0].size
        self.between = self.mean.reshape(len(a), -1).var(axis=1, ddof=1)

    def rhat(self, num_superchains: int | None) -> np.ndarray:
        _, _, chains, n = self.centred.shape
        within = self.within * n / (n - 1)
        if num_superchains is None:
            square = (n - 1) / n + self.between / within
        else:
            groups = self.mean.reshape(-1, 2, num_superchains, chains // num_superchains)
            groups = groups.swapaxes(1, 2).reshape(len(self.mean), num_superchains, -1)
            within = within + groups.var(axis=2, ddof=1).mean(1)
            between = groups.mean(2).var(axis=1, ddof=1)
            square = 1 + between / within
        stuck = np.where(self.between > _TINY, np.inf, 1.0)
        return np.where(self.within > _TINY, np.sqrt(square), stuck)

    def ess(self) -> np.ndarray:
        _, halves, chains, n = self.centred.shape
        size = halves * chains * n
        found = np.where(self.between > _TINY, float(chains), float(size))
        rows = np.flatnonzero(self.within > _TINY)
        # The sum over lags mostly ends early: try short lags first, with less padding.
        for lags in (n // 4, n) if n >= 64 else (n,):
            if not len(rows):
                break
            tau, ended = self._correlation_time(rows, lags)
            found[rows[ended]] = size / np.maximum(tau[ended], 1 / np.log10(size))
            rows = rows[~ended]
        return found

    def _correlation_time(self, rows: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
        """τ by Geyer's initial monotone sequence, and whether `lags` lags were enough for it."""
        import scipy.fft

        _, _, chains, n = self.centred.shape
        a = self.centred if len(rows) == len(self.centred) else self.centred[rows]
        # First halves as real parts, second as imaginary: one complex transform for both, and the
        # real part of the summed complex autocovariance is the sum of theirs.
        length = int(scipy.fft.next_fast_len(n + lags))  # type: ignore[arg-type]
        padded = np.zeros((len(rows), chains, length), np.complex128)
        padded.real[:, :, :n], padded.imag[:, :, :n] = a[:, 0], a[:, 1]
        spectrum = np.asarray(scipy.fft.fft(padded, overwrite_x=True)).view(np.float64)
        power = np.einsum("qcf,qcf->qf", spectrum, spectrum)
        power = power[:, ::2] + power[:, 1::2]
        covariance = np.fft.ifft(power).real[:, :lags] / a[0].size
        within, between = self.within[rows, None], self.between[rows, None]
        rho = 1 - (within * n / (n - 1) - covariance) / (within + between)
        rho[:, 0] = 1.0
        pairs = rho[:, 0 : lags - 1 : 2] + rho[:, 1:lags:2]
        most = max(0, (n - 3) // 2)  # the last pair looked at
        ended = (pairs <= 0).any(1)
        end = np.where(ended, (pairs <= 0).argmax(1), pairs.shape[1] - 1)
        end = np.minimum(end, most)
        kept = np.arange(pairs.shape[1]) < end[:, None]
        at = np.arange(len(rows)), end
        edge = np.take_along_axis(rho, 2 * end[:, None], 1)[:, 0]
        edge = np.where(pairs[at] >= 0, edge, np.maximum(edge, 0))
        tau = -1 + 2 * np.where(kept, np.minimum.accumulate(pairs, axis=1), 0).sum(1) + edge
        return tau, ended | (lags == n)
