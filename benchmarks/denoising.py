"""How good a denoiser of grey images does a few minutes' training of one scalar energy give?

`EnergyDenoiser` is trained on Train400 and cleans Set12 of Gaussian noise with σ = 25 (of 255),
neither clipped nor rounded, beside the published BM3D. Images come by `--data DIR`, which holds
denoise/Train400.npz and Set12.npz. `--minutes M` is the longest training, in CPU time; shorter
ones before it show the trend.
"""

import resource
import time
import warnings
from pathlib import Path

import numpy as np

from benchmarks._timing import Options, Report, isolated, say

SIGMA = 25 / 255
BM3D = 30.01  # mean PSNR on Set12 of PyPI's bm3d, noise not clipped
WANTED = 29.5
MINUTES = 40.0
SHARES = (1 / 16, 1 / 4, 1)  # of the minutes, one training each
TIMED = 40  # steps, by which the number of steps that fill the minutes is told
SEED = 0


def run(options: Options) -> Report:
    folder = None if options.data is None else Path(options.data) / "denoise"
    limits: list[tuple[str, float, float]] = []
    notes: list[str] = []
    if folder is None or not folder.is_dir():
        notes.append("Without `--data DIR` that holds denoise/, no image was cleaned.")
    else:
        minutes = options.minutes or (0.3 if options.quick else MINUTES)
        best = 0.0
        for share in SHARES[-1:] if options.quick else SHARES:
            say(f"benchmarks: denoising: {share * minutes:g} minutes")
            arguments = {"folder": str(folder), "minutes": share * minutes, "quick": options.quick}
            found = isolated("benchmarks.denoising:trained", arguments, options.threads)
            notes.append(_line(found))
            best = max(best, found["psnr"])
        limits.append(("dB that the longest training stays below 29.5 on Set12", WANTED - best, 0))
    return Report(
        name="denoising",
        question="Mean PSNR on Set12 at σ = 25 of EnergyDenoiser() trained on Train400, against "
        f"CPU minutes of training; BM3D has {BM3D}.",
        timings=[],
        ratios=[],
        limits=limits,
        notes=notes,
    )


def _line(found: dict) -> str:
    return (
        f"{found['minutes']:.1f} CPU minutes, {found['steps']} steps of {found['step_ms']:.0f} ms "
        f"(CPU), {found['parameters']} parameters: {found['psnr']:.2f} dB on {found['images']} "
        f"images (noisy {found['noisy']:.2f}, BM3D {BM3D}); seconds an image of "
        f"{found['pixels']:.0f} pixels {found['seconds']:.2f}; patch of 64 × 64: sd stated "
        f"{found['stated']:.4f}, error {found['error']:.4f} (root mean square)"
        + "".join(f"; {told}" for told in found["told"])
        + "."
    )


def images(file: Path) -> list[np.ndarray]:
    with np.load(file, allow_pickle=False) as saved:
        return [saved[name] for name in sorted(saved.files)]


def psnr(found: np.ndarray, clean: np.ndarray) -> float:
    """−10 log₁₀ of the mean squared error, values 0 to 1."""
    return float(-10 * np.log10(np.mean((np.clip(found, 0, 1) - clean) ** 2)))


def trained(folder: str, minutes: float, quick: bool = False) -> dict:
    """One training for `minutes` of CPU time, compilation aside, and what it gives on Set12."""
    import jax

    from energax.energies._base import partition_trainable
    from energax.estimators import EnergyDenoiser

    training = images(Path(folder) / "Train400.npz")
    test = [image.astype(np.float64) / 255 for image in images(Path(folder) / "Set12.npz")]
    test = [image[:128, :128] for image in test] if quick else test

    def fitted(num_steps: int) -> tuple[EnergyDenoiser, float, list[str]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            begun = _cpu()
            model = EnergyDenoiser(SIGMA, num_steps=num_steps, random_state=SEED).fit(training)
        return model, _cpu() - begun, [str(each.message) for each in caught]

    few, more = fitted(TIMED)[1], fitted(3 * TIMED)[1]
    step = max((more - few) / (2 * TIMED), 0.02)  # each call compiles anew
    steps = max(TIMED, round(60 * minutes / step))
    model, seconds, told = fitted(steps)
    rng = np.random.default_rng(SEED)
    noisy = [image + SIGMA * rng.standard_normal(image.shape) for image in test]
    model.transform(noisy)
    begun = time.perf_counter()
    cleaned = model.transform(noisy)
    each = (time.perf_counter() - begun) / len(test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # verdicts on pieces: what is asked is how they fare
        mean, sd = model.transform(np.stack([n[32:96, 32:96] for n in noisy]), return_std=True)
    pieces = np.stack([image[32:96, 32:96] for image in test])
    return {
        "minutes": seconds / 60,
        "steps": steps,
        "told": told,
        "step_ms": 1000 * seconds / steps,
        "parameters": sum(
            leaf.size for leaf in jax.tree.leaves(partition_trainable(model.energy_)[0])
        ),
        "psnr": float(np.mean([psnr(a, b) for a, b in zip(cleaned, test, strict=True)])),
        "noisy": float(np.mean([psnr(a, b) for a, b in zip(noisy, test, strict=True)])),
        "images": len(test),
        "pixels": float(np.mean([image.size for image in test])),
        "seconds": each,
        "stated": float(np.sqrt(np.mean(sd**2))),
        "error": float(np.sqrt(np.mean((mean - pieces) ** 2))),
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
