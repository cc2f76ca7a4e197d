"""A run of chains on disk: where they are, what was kept, and the settings it must go on with."""

import hashlib
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from energax import io
from energax.samplers.driver._base import History

_SECONDS_BETWEEN = 10.0


class Saved:
    """The checkpoint file of one `sample`, written after rounds and every ten seconds.

    **Arguments:** `path`: NAME.json; the arrays lie beside it. `settings`: plain JSON data that a
    run which goes on must share.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]):
        self.path, self.settings = Path(path), settings
        self._written = time.monotonic()
        if self.path.suffix != ".json":
            raise ValueError(f"checkpoint: expected a file name that ends in .json, got {path}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"checkpoint: there is no folder {self.path.parent}")

    def read(self, job: Any, history: History) -> bool:
        """Puts `job` and `history` where the file left them; False if there is no file.

        **Raises:** ValueError if the file is of another run; io.DamagedFile if it is damaged.
        """
        if not self.path.exists():
            return False
        archive = io.read_archive(self.path)
        info = archive.info
        if info.get("kind") != "sampling":
            raise ValueError(f"{self.path} holds no sampling run but a {info.get('kind')}")
        other = [k for k, v in self.settings.items() if info["settings"].get(k) != v]
        if other:
            raise ValueError(
                f"{self.path} is of another run: {', '.join(other)} differ; give another "
                "checkpoint= or remove the file"
            )
        job.state, job.tuning, job.key = archive.fill("chains", (job.state, job.tuning, job.key))
        for name, value in info["job"].items():
            setattr(job, name, value)
        if info["has_opinion"]:
            job.opinion = archive.array("opinion[0]"), archive.array("opinion[1]")
        leaves = [archive.array(f"draws[{i}]") for i in range(info["num_leaves"])]
        structure = jax.tree.structure(job.state.x)
        history.restore(
            leaves, archive.array("log_density"), structure, info["thin"], info["num_steps"]
        )
        return True

    def write(self, job: Any, history: History, *, now: bool) -> None:
        """Writes the file, if it is due or `now`.

        **Raises:** OSError if it cannot be written.
        """
        if not now and time.monotonic() - self._written < _SECONDS_BETWEEN:
            return
        kept = history.since(0)
        names = ("num_evaluations", "num_blocks", "acceptance", "num_divergent", "warmup")
        names += ("block", "one_program", "cost", "hopeless", "num_superchains")
        io.write_archive(
            self.path,
            {
                "chains": (job.state, job.tuning, job.key),
                "draws": kept.leaves,
                "log_density": kept.log_density,
                "opinion": list(job.opinion or ()),
            },
            registry={},
            info={
                "kind": "sampling",
                "settings": self.settings,
                "job": {name: getattr(job, name) for name in names},
                "has_opinion": job.opinion is not None,
                "num_leaves": len(kept.leaves),
                "thin": history.thin,
                "num_steps": history.num_steps,
            },
        )
        self._written = time.monotonic()


def fingerprint(tree: Any) -> str:
    """SHA-256 of the arrays of `tree` and of its structure of fields, as far as names tell."""
    digest = hashlib.sha256()
    arrays = eqx.filter(tree, eqx.is_array)
    for place, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        value = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(place)} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
