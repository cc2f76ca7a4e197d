"""Take Gaussian noise off images of any size, or off rows of a table."""

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from energax import objectives, random, spaces, tasks, training
from energax.energies import MLP, GradientStepDenoiser, Smoothed
from energax.estimators._base import read_table, seed_of, standardised
from energax.results import Verdict
from energax.tasks.denoise.tweedie import posterior_means

_MOST_PATCHES = 20_000
_WIDTH = 64
_TRIES = 3  # trainings, each at half the rate, of a network that comes out constant
_FLAT, _LOOKED_AT = 0.01, 64  # sds of the noise, and the rows that are asked


class EnergyDenoiser(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Takes Gaussian noise of a known size off images, or off rows of a table.

    An energy is trained by denoising score matching (Vincent 2011) to be that of points with the
    noise on; what comes out is the mean of the clean point given the noisy one by Tweedie's
    formula, x + σ²∇f(x) of one scalar f (Robbins 1956), and its standard deviation. Of images the
    energy is `GradientStepDenoiser`, trained on small pieces, turned and mirrored, and read at any
    size; of a table an `MLP` on standardised columns. A network for images that came out constant,
    as it does for ever after a step that was far too large, is trained anew at half the rate, with
    a warning, up to twice.

    **Arguments:** `sigma`: standard deviation of the noise, in units of X, of images after uint8
    has been scaled to [0, 1]. `channels`, `depth`: of the network for images. `patch_size`: pixels
    a side of the pieces. `num_steps`, `batch_size`, `learning_rate`: of the training.
    `random_state`: seed; equal seeds give equal results.

    Fitted: `energy_`; `reliable_` and `reasons_` of the training, or of the last answer that came
    with standard deviations.
    """

    _parameter_constraints: ClassVar[dict] = {
        "sigma": [Interval(Real, 0, None, closed="neither")],
        "channels": [Interval(Integral, 1, None, closed="left")],
        "depth": [Interval(Integral, 2, None, closed="left")],
        "patch_size": [Interval(Integral, 2, None, closed="left")],
        "num_steps": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        sigma=25 / 255,
        *,
        channels=48,
        depth=6,
        patch_size=40,
        num_steps=2000,
        batch_size=8,
        learning_rate=2e-3,
        random_state=None,
    ):
        self.sigma = sigma
        self.channels = channels
        self.depth = depth
        self.patch_size = patch_size
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fits the energy to clean points; `y` is ignored.

        **Arguments:** `X`: images, an array (images, height, width) or (images, height, width,
        channels) or a list of arrays (height, width) or (height, width, channels) of any sizes,
        floats in [0, 1] or uint8; or a table of numbers, (rows, columns).
        """
        self._validate_params()
        self._seed = seed_of(self.random_state)
        self._takes_images = are_images(X)
        if self._takes_images:
            images = _as_images(X)
            self._channels = images[0].shape[2:]
            self._check_range(images)
            rows = self._patches(images)
            start: Any = GradientStepDenoiser(
                spaces.Real(rows.shape[1:]),
                self.sigma,
                self.channels,
                self.depth,
                key=random.key(self._seed),
            )
        else:
            rows = read_table(self, X, reset=True, gaps=False)
            network = MLP(spaces.Real(rows.shape[1:]), _WIDTH, key=random.key(self._seed))
            start = Smoothed(standardised(network, rows), self.sigma)
        for halvings in range(_TRIES):
            rate = self.learning_rate / 2**halvings
            result = training.fit(
                start,
                rows,
                objectives.DenoisingScoreMatching(),
                key=random.key(self._seed + 1),
                num_steps=self.num_steps,
                batch_size=min(self.batch_size, len(rows)),
                learning_rate=rate,
                recover=True,
            )
            self.energy_ = result.energy
            self.reliable_, self.reasons_ = result.reliable, result.reasons
            if not self._takes_images or not self._is_flat(rows):
                return self
            what = f"at learning_rate={rate:g} the network became constant in training"
            if halvings < _TRIES - 1:
                warnings.warn(f"EnergyDenoiser: {what}; it begins anew at half of it", stacklevel=2)
        self.reliable_ = False
        self.reasons_ = (*self.reasons_, f"{what} and cleans nothing: lower learning_rate")
        Verdict(self.reasons_).warn("the denoiser")
        return self

    def _is_flat(self, rows: np.ndarray) -> bool:
        """Whether f moves noisy rows by next to nothing: σ|∇f| < 0.01 in the root mean square."""
        some = np.asarray(rows[:_LOOKED_AT], float)
        noise = np.random.default_rng(self._seed).normal(size=some.shape)
        noisy = some + self.sigma * noise
        moved = self._cleaned(noisy, False)[0] - noisy
        return bool(np.sqrt(np.mean(moved**2)) < _FLAT * self.sigma)

    def transform(self, X, return_std=False):
        """The clean points' mean given X: an array or a list as X is, floats in the units of `fit`.

        **Arguments:** `return_std`: give (mean, standard deviation), and tell in `reliable_` and
        `reasons_` whether X is such as the energy was trained on; takes some 40 times as long.

        **Raises:** ValueError for images where a table was fitted and the other way round, other
        channels or columns.
        """
        check_is_fitted(self)
        if are_images(X) != self._takes_images:
            kinds = "images", "a table"
            wanted, got = kinds if self._takes_images else kinds[::-1]
            raise ValueError(f"X: expected {wanted}, as was fitted, got {got}")
        if not self._takes_images:
            rows = read_table(self, X, reset=False, gaps=False)
            means, sds, reasons = self._cleaned(rows, return_std)
        else:
            images = _as_images(X, self._channels)
            stacked = isinstance(X, np.ndarray)
            if stacked:
                means, sds, reasons = self._cleaned(np.stack(images), return_std)
            else:
                each = [self._cleaned(image[None], return_std) for image in images]
                means, sds = [found[0][0] for found in each], [found[1][0] for found in each]
                reasons = tuple(
                    f"image {i}: {reason}" for i, found in enumerate(each) for reason in found[2]
                )
        if not return_std:
            return means
        self.reliable_, self.reasons_ = not reasons, reasons
        return means, sds

    def _cleaned(self, rows: np.ndarray, with_sd: bool):
        """(means, standard deviations, reasons of doubt) of rows of one shape."""
        energy = self.energy_
        if energy.space.shape != rows.shape[1:]:
            energy = energy.with_space(spaces.Real(rows.shape[1:]))
        noise = tasks.GaussianNoise(self.sigma)
        if with_sd:
            found = tasks.denoise(energy, rows, noise, key=random.key(self._seed + 2))
            return found.mean, found.sd, found.reasons
        values = jnp.asarray(rows, float)
        means = posterior_means(energy, values, jnp.asarray(self.sigma, values.dtype))
        return np.asarray(means, np.float64), np.zeros(len(rows)), ()

    def _patches(self, images: list[np.ndarray]) -> np.ndarray:
        """Squares at random places of random images, turned and mirrored at random."""
        rng = np.random.default_rng(self._seed)
        side = min(self.patch_size, min(min(image.shape[:2]) for image in images))
        num = min(self.num_steps * self.batch_size, _MOST_PATCHES)
        areas = np.array([image.shape[0] * image.shape[1] for image in images], float)
        out = np.empty((max(num, 2), side, side, *self._channels), np.float32)
        chosen = rng.choice(len(images), len(out), p=areas / areas.sum())
        for patch, number in zip(out, chosen, strict=True):
            image = images[number]
            top, left = (rng.integers(n - side + 1) for n in image.shape[:2])
            piece = image[top : top + side, left : left + side]
            turned = np.rot90(piece, int(rng.integers(4)))
            patch[...] = turned[::-1] if rng.integers(2) else turned
        return out

    def _check_range(self, images: list[np.ndarray]) -> None:
        low, high = min(i.min() for i in images), max(i.max() for i in images)
        if low < -0.01 or high > 1.01:
            raise ValueError(
                f"X: expected images with values in [0, 1], or uint8, got {low:g} to {high:g}: "
                "rescale them, and sigma with them"
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


def are_images(X: Any) -> bool:
    """Whether X is an array of images, or a list of arrays that each are one."""
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(x, np.ndarray) and x.ndim >= 2 for x in X)
    return isinstance(X, np.ndarray) and X.ndim >= 3


def _as_images(X: Any, channels: tuple[int, ...] | None = None) -> list[np.ndarray]:
    """Images as float32, (height, width) or (height, width, channels), uint8 scaled to [0, 1].

    **Raises:** ValueError for arrays that are no images, other channels, none, or numbers that are
    not finite.
    """
    if len(X) == 0:
        raise ValueError("X: expected at least one image, got none")
    images = []
    for number, image in enumerate(X):
        if image.ndim not in (2, 3) or min(image.shape) < 1 or image.dtype.kind not in "uif":
            raise ValueError(
                f"X: expected images (height, width) or (height, width, channels) of numbers, got "
                f"shape {image.shape}, dtype {image.dtype} at number {number}"
            )
        wanted = image.shape[2:] if channels is None else channels
        channels = wanted
        if image.shape[2:] != wanted:
            raise ValueError(
                f"X: expected images of one kind, channels {wanted or 'none'}, got "
                f"{image.shape[2:] or 'none'} at number {number}"
            )
        values = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
        if not np.isfinite(values).all():
            raise ValueError(f"X: image {number} holds NaN or infinity; mask or fill it first")
        images.append(values)
    return images
