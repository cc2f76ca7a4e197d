"""The answers: what a trained model says of rows that clients send."""

import contextlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import equinox as eqx
import jax
import msgspec
import numpy as np

from energax import jobs, partition, random, samplers, spaces, tasks, training
from energax.energies._base import batched, check_scalar
from energax.results import Verdict, plain
from energax.serve._base import (
    Deadline,
    DenoiseAnswer,
    DenoiseRequest,
    Limits,
    ModelAnswer,
    Refusal,
    SampleAnswer,
    SampleRequest,
    ScoreAnswer,
    ScoreRequest,
)
from energax.tasks._base import padded_blocks, verdict_of
from energax.tasks.anomaly import Calibration

FALSE_ALARM_RATE = 0.05  # what p-values must be able to tell, to be called reliable
_SIZES = tuple(2**k for k in range(3, 11))
"""Rows in one call of the compiled f: a batch is padded to the next of these, a larger one cut."""
_DENOISED = 32  # rows cleaned side by side
_OF_THE_TIME = 0.8  # that chains may run; the rest is for the look at them


class Model:
    """A trained model, its log Z and its held-out scores, compiled and ready to answer.

    **Arguments:** `fit`: a finished run on a space of arrays. `held_out`: rows that training never
    saw, for p-values; or in words why there are none. `with_log_z`: whether log Z is estimated,
    which may take minutes. `say`: is told what is being done.

    **Raises:** ValueError where the model cannot be evaluated.
    """

    def __init__(
        self,
        fit: training.Fit,
        *,
        seed: int = 0,
        held_out: np.ndarray | str,
        with_log_z: bool = True,
        limits: Limits | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.fit, self.energy, self.seed = fit, fit.energy, seed
        self.limits = Limits() if limits is None else limits
        space = self.energy.space
        if not isinstance(space, spaces.AbstractArraySpace):
            raise ValueError(f"expected a model on a space of arrays, got {space}")
        check_scalar(self.energy)
        self.space = space
        self.num_columns = space.num_sites
        self._arrays, rest = eqx.partition(self.energy, eqx.is_array)
        self._log_density = jax.jit(lambda arrays, x: batched(eqx.combine(arrays, rest), x))
        self.missing: dict[str, str] = {}
        say(f"compiling for batches of {_SIZES[0]} to {_SIZES[-1]} rows ...")
        self._compile()
        self.log_z = None
        if with_log_z:
            say("estimating log Z ...")
            self.log_z = partition.log_z(self.energy, key=random.key(seed))
        else:
            self.missing["log_prob"] = "log Z was not asked for (--no-log-z)"
        self.calibration = None
        if isinstance(held_out, str):
            self.missing["p_value"] = held_out
        else:
            self.calibration = Calibration.of(-self._f(held_out, None))
        checks = [] if self.calibration is None else [self.calibration.verdict(FALSE_ALARM_RATE)]
        checks += [] if self.log_z is None else [Verdict(self.log_z.reasons)]
        self.verdict = Verdict(tuple(reason for check in checks for reason in check.reasons))

    def _compile(self) -> None:
        example = np.asarray(self.space.example())
        for size in _SIZES:
            rows = np.broadcast_to(example, (size, *example.shape))
            jax.block_until_ready(self._log_density(self._arrays, rows))

    def about(self) -> ModelAnswer:
        """What GET /model tells."""
        noise = self._noise
        fit, calibration = self.fit, self.calibration
        return ModelAnswer(
            space=jobs.space_name(self.space),
            shape=list(self.space.shape),
            num_columns=self.num_columns,
            example=self._flat(np.asarray(self.space.example())[None])[0],
            energy=type(self.energy).__name__,
            noise=None if noise is None else noise[0],
            training={
                "num_steps": fit.num_steps,
                "objective": type(fit.objective).__name__ if fit.objective else None,
                "reliable": fit.reliable,
                "reasons": list(fit.reasons),
            },
            log_z=None if self.log_z is None else self.log_z.summary(),
            p_values=None
            if calibration is None
            else {"num_held_out": len(calibration.scores), "smallest_p": calibration.smallest_p},
            missing=self.missing,
            limits={
                "max_body": self.limits.max_body,
                "max_rows": self.limits.max_rows,
                "max_seconds": self.limits.max_seconds,
            },
            version=_version(),
        )

    # ---- rows in, rows out -------------------------------------------------------------------

    def _points(self, rows: list[list[float]]) -> np.ndarray:
        """Points of the space, in the encoding that the energy sees."""
        columns = self.num_columns
        for number, row in enumerate(rows):
            if len(row) != columns:
                raise Refusal(422, f"rows[{number}]: expected {columns} numbers, got {len(row)}")
        space = self.space
        sites = space.sites if isinstance(space, spaces.Categorical) else space.shape
        with _clients_fault(), np.errstate(over="ignore"):
            values = np.array(rows, np.float64).reshape(len(rows), *sites)
            points = jobs.as_points(space, values, name="rows")
        too_large = ~np.isfinite(points)
        if too_large.any():
            raise Refusal(
                422,
                f"rows[{int(np.argwhere(too_large)[0][0])}]: a number is beyond "
                f"{np.finfo(points.dtype).max:.3g}, the range that the model computes in",
            )
        return points

    def _flat(self, points: np.ndarray) -> list[list[Any]]:
        """Rows of columns of points."""
        space = self.space
        if isinstance(space, spaces.Categorical) and space.encoding == "onehot":
            points = points.argmax(-1)
        return points.reshape(len(points), -1).tolist()

    def _f(self, points: np.ndarray, deadline: Deadline | None) -> np.ndarray:
        """f of each point in float64, in blocks of few sizes, so that nothing is compiled anew.

        **Raises:** ValueError where f is NaN or +∞.
        """
        found = np.empty(len(points))
        for block, own in padded_blocks(points, _SIZES):
            if deadline is not None:
                deadline.check()
            values = np.asarray(self._log_density(self._arrays, block))
            found[own] = values[: own.stop - own.start]
        bad = np.isnan(found) | (found == np.inf)
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"rows[{row}]: the model gives f = {found[row]} there, which is no log-density: "
                "are its numbers far out of the data's range?"
            )
        return found

    # ---- the three questions -----------------------------------------------------------------

    def score(self, request: ScoreRequest, deadline: Deadline) -> ScoreAnswer:
        """f, E, log p and p-value of every row."""
        points = self._points(request.rows)
        with _clients_fault():
            f = self._f(points, deadline)
        z, calibration = self.log_z, self.calibration
        log_prob = std_err = p_value = None
        if z is not None:
            with np.errstate(invalid="ignore"):
                log_prob = (f - z.value).tolist()
            std_err = [float(z.std_err)] * len(f)
        if calibration is not None:
            p_value = calibration.p_values(-f).tolist()
        return ScoreAnswer(
            num_rows=len(f),
            log_density=f.tolist(),
            energy=(-f).tolist(),
            log_prob=log_prob,
            std_err=std_err,
            log_z=None if z is None else float(z.value),
            log_z_std_err=None if z is None else float(z.std_err),
            p_value=p_value,
            smallest_p=None if calibration is None else calibration.smallest_p,
            reliable=self.verdict.reliable,
            reasons=list(self.verdict.reasons),
            missing=self.missing,
        )

    @property
    def _noise(self) -> tuple[str, Callable[[float], Any]] | None:
        """(name of the field, kind) of the noise that `denoise` knows on this space."""
        if isinstance(self.space, (spaces.Binary, spaces.Spin)):
            return "flip_rate", tasks.BitFlip
        return ("noise_sd", tasks.GaussianNoise) if isinstance(self.space, spaces.Real) else None

    def denoise(self, request: DenoiseRequest, deadline: Deadline) -> DenoiseAnswer:
        """p(x | y) of every row, in blocks of one size with a look at the clock between them."""
        points, noise = self._points(request.rows), self._asked_noise(request)
        key = self._key(request)
        blocks = []
        for number, start in enumerate(range(0, len(points), _DENOISED)):
            deadline.check()
            block = points[start : start + _DENOISED]
            rows = np.resize(block, (_DENOISED, *block.shape[1:]))  # repeats them
            with _clients_fault():
                found = tasks.denoise(self.energy, rows, noise, key=jax.random.fold_in(key, number))
            blocks.append((found, len(block)))

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(found, name)[:num] for found, num in blocks])

        good = joined("reliable_rows")
        verdict = verdict_of(good)
        return DenoiseAnswer(
            num_rows=len(good),
            **{name: self._flat(joined(name)) for name in ("x", "mean", "sd", "std_err")},
            mode=None if blocks[0][0].mode is None else self._flat(joined("mode")),
            reliable_rows=good.tolist(),
            reliable=verdict.reliable,
            reasons=list(verdict.reasons),
        )

    def _asked_noise(self, request: DenoiseRequest):
        given = {"flip_rate": request.flip_rate, "noise_sd": request.noise_sd}
        given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
        if self._noise is None:
            raise Refusal(
                422,
                f"/denoise is for bits, spins and reals, this model is on {self.space}",
            )
        name, kind = self._noise
        if set(given) != {name}:
            got = ", ".join(given) or "none"
            raise Refusal(422, f"expected {name} for {self.space}, got {got}")
        with _clients_fault(), np.errstate(over="ignore"):
            return kind(given[name])

    def sample(self, request: SampleRequest, deadline: Deadline) -> SampleAnswer:
        """Draws of chains that run until they agree, or for as long as the request may take."""
        if request.num > self.limits.max_rows:
            raise Refusal(
                413,
                f"num: expected at most {self.limits.max_rows:,} (--max-rows), got {request.num:,}",
            )
        with _clients_fault():
            draws = samplers.sample(
                self.energy,
                request.num,
                key=self._key(request),
                max_seconds=_OF_THE_TIME * deadline.left,
            )
        return SampleAnswer(
            num=request.num,
            x=self._flat(np.asarray(draws.flat())),
            log_density=np.asarray(draws.log_density, np.float64).reshape(-1).tolist(),
            convergence=plain(draws.convergence()),
            time_limited=draws.time_limited,
            reliable=draws.reliable,
            reasons=list(draws.reasons),
        )

    def _key(self, request: DenoiseRequest | SampleRequest):
        return random.key(self.seed if request.seed is msgspec.UNSET else request.seed)


def _version() -> str:
    try:
        return metadata.version("energax")
    except metadata.PackageNotFoundError:  # run from a folder, not installed
        return "unknown"


@contextlib.contextmanager
def _clients_fault() -> Iterator[None]:
    """What the library says of its arguments is said of the request."""
    try:
        yield
    except ValueError as error:
        raise Refusal(422, str(error)) from None
