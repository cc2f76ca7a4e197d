"""What an ensemble learns in warm-up: scales, step sizes, metrics."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from energax.samplers._base.steps import as_rows


class EnsembleMoments(eqx.Module):
    """Mean and variance of each coordinate over chains and warm-up steps, late steps counting most.

    Step t enters with gain 3/(t + 10), so that step s weighs about s² and the start is forgotten.
    """

    mean: PyTree
    variance: PyTree
    count: Float[Array, ""]

    @staticmethod
    def start(x: PyTree) -> "EnsembleMoments":
        """From an ensemble, leaves (num_chains, *event); a coordinate without spread gets 1."""

        def spread(leaf):
            variance = jnp.var(leaf.astype(float), axis=0)
            return jnp.where((variance > 0) & jnp.isfinite(variance), variance, 1.0)

        mean = jax.tree.map(lambda leaf: jnp.mean(leaf.astype(float), axis=0), x)
        return EnsembleMoments(mean, jax.tree.map(spread, x), jnp.zeros((), float))

    @property
    def sd(self) -> PyTree:
        return jax.tree.map(jnp.sqrt, self.variance)

    def freeze(self) -> "EnsembleMoments":
        """The same moments; should warm-up go on, what it learned from the start is forgotten."""
        return eqx.tree_at(lambda m: m.count, self, jnp.zeros_like(self.count))

    def update(self, x: PyTree) -> "EnsembleMoments":
        count = self.count + 1
        gain = 3 / (count + 10)

        here = jax.tree.map(lambda leaf: jnp.mean(leaf.astype(float), axis=0), x)

        def moved(mean, here):
            return mean + gain * (here - mean)

        def spread(mean, variance, here, leaf):  # that of a mixture: within, and between means
            within = jnp.mean((leaf.astype(float) - here) ** 2, axis=0)
            new = (1 - gain) * variance + gain * within + gain * (1 - gain) * (here - mean) ** 2
            return jnp.where(jnp.isfinite(new) & (new > 0), new, variance)

        mean = jax.tree.map(moved, self.mean, here)
        variance = jax.tree.map(spread, self.mean, self.variance, here, x)
        return EnsembleMoments(mean, variance, count)


class DualAveraging(eqx.Module):
    """Step size that drives the ensemble's mean acceptance to a target.

    Hoffman & Gelman 2014 (arXiv:1111.4246), eq. 6, with one statistic a step: the mean over chains.
    """

    log_step: Float[Array, ""]
    log_average: Float[Array, ""]
    error_sum: Float[Array, ""]
    count: Float[Array, ""]
    anchor: Float[Array, ""]

    @staticmethod
    def start(step_size) -> "DualAveraging":
        log_step = jnp.log(jnp.asarray(step_size, float))
        zero = jnp.zeros_like(log_step)
        return DualAveraging(log_step, log_step, zero, zero, log_step + jnp.log(10.0))

    @property
    def step_size(self) -> Float[Array, ""]:
        """The averaged step size, which warm-up leaves behind."""
        return jnp.exp(self.log_average)

    def freeze(self) -> "DualAveraging":
        """The averaged step size becomes the one in use, `log_step`."""
        return eqx.tree_at(lambda d: d.log_step, self, self.log_average)

    def update(
        self, acceptance: Float[Array, " chains"], target: float | Float[Array, ""]
    ) -> "DualAveraging":
        gamma, t0, kappa = 0.05, 10.0, 0.75  # the paper's values
        count = self.count + 1
        error = target - jnp.mean(jnp.nan_to_num(acceptance))
        error_sum = self.error_sum + error
        log_step = self.anchor - jnp.sqrt(count) / gamma * error_sum / (count + t0)
        log_step = jnp.clip(log_step, -50.0, 50.0)  # a flat density accepts any step
        weight = count**-kappa
        log_average = weight * log_step + (1 - weight) * self.log_average
        return DualAveraging(log_step, log_average, error_sum, count, self.anchor)


class Metric(eqx.Module):
    """What makes the coordinates comparable: x = mean + Lz, z about standard normal.

    Learned from all chains and warm-up steps with the gains of `EnsembleMoments`. L is the sd of
    each coordinate, or where `covariance` is a matrix its Cholesky factor, shrunk. With R the
    correlations and s = E[noise in R]/‖R − 1‖², at most 1, as Schäfer & Strimmer 2005 shrink, L
    belongs to (1 − s²) R + s² 1: to a diagonal metric as long as the correlations can't be told
    from noise, and to the full one soon after, since a weight s would hide the stiffest direction.

    `mean` (n,); `covariance` (n,) or (n, n), `factor` L of the same shape; `count` of steps.
    """

    mean: Float[Array, " n"]
    covariance: Float[Array, "..."]
    factor: Float[Array, "..."]
    count: Float[Array, ""]
    draws_as_one: float = eqx.field(static=True, default=3.0)

    @staticmethod
    def start(x: PyTree, dense: bool, draws_as_one: float = 3.0) -> "Metric":
        """From an ensemble; a coordinate without spread gets 1. At first L is diagonal.

        **Arguments:** `draws_as_one`: how many draws in warm-up tell as much as one independent.
        """
        moments = EnsembleMoments.start(as_rows(x).astype(float))
        variance, sd = moments.variance, moments.sd
        if dense:
            variance, sd = jnp.diag(variance), jnp.diag(sd)
        return Metric(moments.mean, variance, sd, moments.count, draws_as_one)

    def push(self, z: Float[Array, "chains n"]) -> Float[Array, "chains n"]:
        """Lz, row by row."""
        return z * self.factor if self.factor.ndim == 1 else z @ self.factor.T

    def pull(self, gradient: Float[Array, "chains n"]) -> Float[Array, "chains n"]:
        """Lᵀ∇, row by row."""
        return gradient * self.factor if self.factor.ndim == 1 else gradient @ self.factor

    def whiten(self, x: Float[Array, "chains n"]) -> Float[Array, "chains n"]:
        """L⁻¹(x − mean), row by row."""
        centred = x - self.mean
        if self.factor.ndim == 1:
            return centred / self.factor
        return jax.scipy.linalg.solve_triangular(self.factor, centred.T, lower=True).T

    def update(self, x: PyTree) -> "Metric":
        rows = as_rows(x).astype(float)
        num_chains, n = rows.shape
        count = self.count + 1
        gain = 3 / (count + 10)
        here = jnp.mean(rows, axis=0)
        shift, centred = here - self.mean, rows - here
        mean = self.mean + gain * shift
        if self.factor.ndim == 1:
            within, between = jnp.mean(centred**2, axis=0), shift**2
        else:
            within, between = centred.T @ centred / num_chains, jnp.outer(shift, shift)
        new = (1 - gain) * self.covariance + gain * (within + (1 - gain) * between)
        if self.factor.ndim == 1:
            new = jnp.where(jnp.isfinite(new) & (new > 0), new, self.covariance)
            return Metric(mean, new, jnp.sqrt(new), count, self.draws_as_one)
        fine = jnp.all(jnp.isfinite(new)) & jnp.all(jnp.diagonal(new) > 0)
        new = jnp.where(fine, new, self.covariance)
        every = max(1, n // 10)  # a factor costs n³/3
        # The gains give step s a weight of about s²
        num = 5 / 9 * (count + 5) * num_chains / self.draws_as_one
        factor = jax.lax.cond(
            count % every == 0, lambda: _shrunk_factor(new, num, self.factor), lambda: self.factor
        )
        return Metric(mean, new, factor, count, self.draws_as_one)


def _shrunk_factor(covariance, num_samples, fallback):
    """L of `Metric` from a covariance of `num_samples` draws."""
    n = len(covariance)
    sd = jnp.sqrt(jnp.diagonal(covariance))
    correlation = covariance / jnp.outer(sd, sd)
    signal = jnp.sum(correlation**2) - jnp.sum(jnp.diagonal(correlation) ** 2)
    noise = n * (n - 1) / num_samples
    shrink = jnp.minimum(1.0, noise / jnp.maximum(signal, 1e-30)) ** 2
    shrink = jnp.maximum(shrink, 1e-6)  # rounding
    factor = jnp.linalg.cholesky((1 - shrink) * correlation + shrink * jnp.eye(n))
    factor = sd[:, None] * factor
    return jnp.where(jnp.all(jnp.isfinite(factor)), factor, fallback)
