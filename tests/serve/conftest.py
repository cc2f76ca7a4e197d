"""The model that is served, a client of it, and a run on disk."""

import numpy as np
import pytest
from starlette.testclient import TestClient

from energax import cli, energies, serve
from tests.serve.service import HERE, HIDDEN, VISIBLE, W, bits, fitted, tight


@pytest.fixture(scope="package")
def model():
    return serve.Model(
        fitted(energies.BernoulliRBM(W, VISIBLE, HIDDEN)), held_out=bits(99, 7), limits=tight()
    )


@pytest.fixture(scope="package")
def client(model):
    with TestClient(serve.create_app(model), base_url=HERE) as client:
        yield client


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """A run on disk, fitted at once by its moments."""
    folder = tmp_path_factory.mktemp("served")
    np.save(folder / "rows.npy", bits(200, 4))
    options = ["--model", "independent", "--objective", "moments", "--space", "binary"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", str(folder / "rows.npy"), "--out", str(folder / "run"), *options])
    assert not stop.value.code
    return folder
