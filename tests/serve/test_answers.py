"""Answers as computed by hand, and what the service says of itself."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from starlette.testclient import TestClient

from energax import energies, serve, spaces
from tests.serve.service import HERE, STATES, asked, bits, f_of, fitted, strict, tight


@pytest.mark.parametrize("num", [1, 7, 8, 100, 1_500])
def test_scores_are_what_the_energy_gives(client, num):
    rows = bits(num, num)
    answer = asked(client, "/score", rows=rows.tolist())
    f, log_z = f_of(rows), np.logaddexp.reduce(f_of(STATES))
    held_out = f_of(bits(99, 7))
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(answer["log_density"], f, **near)
    np.testing.assert_allclose(answer["energy"], -f, **near)
    np.testing.assert_allclose(answer["log_prob"], f - log_z, **near)
    at_least = (held_out[None] <= f[:, None] + 1e-6).sum(1)
    np.testing.assert_allclose(answer["p_value"], (1 + at_least) / 100)
    assert answer["smallest_p"] == 0.01 and answer["num_rows"] == num
    assert answer["std_err"] == [0.0] * num and answer["log_z_std_err"] == 0.0
    assert answer["reliable"] and answer["reasons"] == [] and answer["missing"] == {}


def test_what_is_served_is_told(client):
    about = strict(client.get("/model").text)
    assert about["space"] == "binary" and about["num_columns"] == 5 and about["shape"] == [5]
    assert about["energy"] == "BernoulliRBM" and about["noise"] == "flip_rate"
    assert about["log_z"]["reliable"] and about["training"]["reliable"]
    assert about["p_values"] == {"num_held_out": 99, "smallest_p": 0.01}
    assert about["limits"]["max_rows"] == 2_000
    health = strict(client.get("/health").text)
    assert health["status"] == "ok" and health["waiting"] == {"scores": 0, "chains": 0}
    assert client.head("/health").status_code == 200


def test_noise_is_taken_off_as_the_exact_posterior_says(client):
    rate, noisy = 0.2, bits(40, 3)  # more than one block
    answer = asked(client, "/denoise", rows=noisy.tolist(), flip_rate=rate, seed=5)
    assert answer["reliable"] and answer["reliable_rows"] == [True] * 40
    flips = (noisy[:, None] != STATES[None]).sum(-1)
    log_p = f_of(STATES)[None] + flips * np.log(rate) + (5 - flips) * np.log(1 - rate)
    p = np.exp(log_p - np.logaddexp.reduce(log_p, axis=1, keepdims=True))
    error = np.array(answer["std_err"])
    assert np.all(np.abs(answer["mean"] - p @ STATES) < 6 * error + 1e-3)
    np.testing.assert_array_equal(answer["mode"], STATES[p.argmax(1)])
    again = asked(client, "/denoise", rows=noisy.tolist(), flip_rate=rate, seed=5)
    assert again == answer


def test_draws_follow_the_model(client):
    answer = asked(client, "/sample", num=2_000)
    draws = np.array(answer["x"])
    assert draws.shape == (2_000, 5) and answer["reliable"] and not answer["time_limited"]
    p = np.exp(f_of(STATES) - np.logaddexp.reduce(f_of(STATES)))
    np.testing.assert_allclose(draws.mean(0), p @ STATES, atol=0.08)
    np.testing.assert_allclose(answer["log_density"], f_of(draws), rtol=1e-4, atol=1e-5)
    assert answer["convergence"]["max_rhat"] <= answer["convergence"]["rhat_limit"]
    assert asked(client, "/sample", num=2_000) == answer
    assert asked(client, "/sample", num=2_000, seed=1)["x"] != answer["x"]


MEAN, COV = np.array([1.0, -2.0, 0.5]), np.diag([0.5, 2.0, 1.0]) + 0.3


@pytest.fixture(scope="module")
def normal():
    energy = energies.MultivariateNormal(MEAN, COV)
    rows = np.random.default_rng(1).multivariate_normal(MEAN, COV, 50)
    return serve.Model(fitted(energy), held_out=rows, limits=tight())


def test_densities_of_reals_are_those_of_scipy(normal):
    rows = np.random.default_rng(2).normal(0, 2, (30, 3))
    with TestClient(serve.create_app(normal), base_url=HERE) as client:
        answer = asked(client, "/score", rows=rows.tolist())
        truth = multivariate_normal(MEAN, COV).logpdf(rows)
        np.testing.assert_allclose(answer["log_prob"], truth, rtol=1e-4, atol=1e-4)
        assert answer["log_z_std_err"] == 0.0
        clean = asked(client, "/denoise", rows=rows[:2].tolist(), noise_sd=0.8)
        gain = COV @ np.linalg.inv(COV + 0.64 * np.eye(3))
        np.testing.assert_allclose(clean["mode"], MEAN + (rows[:2] - MEAN) @ gain.T, atol=1e-2)
        draws = np.array(asked(client, "/sample", num=1_000)["x"])
        np.testing.assert_allclose(draws.mean(0), MEAN, atol=5 * np.sqrt(2.3 / 1_000))
        for wrong in ({"flip_rate": 0.1}, {}, {"noise_sd": 1.0, "flip_rate": 0.1}):
            told = asked(client, "/denoise", 422, rows=rows[:1].tolist(), **wrong)
            assert "expected noise_sd" in told["error"]
        assert "range" in asked(client, "/score", 422, rows=[[1e300, 0, 0]])["error"]
        told = asked(client, "/denoise", 422, rows=[[0, 0, 0]], noise_sd=1e300)["error"]
        assert "positive number, got inf" in told


@pytest.mark.slow
def test_an_extreme_question_has_an_answer_or_a_reason(normal):
    with TestClient(serve.create_app(normal), base_url=HERE) as client:
        for sd in (1e-30, 1e30):
            body = {"rows": [[1e30, 0, 0]], "noise_sd": sd}
            response = client.post("/denoise", json=body)
            assert response.status_code in (200, 422), response.text
            assert not strict(response.text).get("reliable")


def test_categories_are_numbers_to_clients():
    space = spaces.Categorical((2,), 3, "onehot")
    table = jnp.array([[0.3, -0.2, 0.7], [1.0, 0.4, -0.6]])
    energy = energies.from_log_density(lambda x: jnp.sum(x * table), space)
    held_out = np.eye(3)[np.random.default_rng(0).integers(0, 3, (40, 2))]
    model = serve.Model(fitted(energy), held_out=held_out, limits=tight())
    with TestClient(serve.create_app(model), base_url=HERE) as client:
        answer = asked(client, "/score", rows=[[0, 2], [1, 1]])
        np.testing.assert_allclose(answer["log_density"], [0.3 - 0.6, -0.2 + 0.4], rtol=1e-5)
        assert set(np.ravel(asked(client, "/sample", num=50)["x"])) <= {0, 1, 2}
        assert "integers 0 to 2" in asked(client, "/score", 422, rows=[[0, 3]])["error"]
        told = asked(client, "/denoise", 422, rows=[[0, 1]], flip_rate=0.1)
        assert "bits, spins and reals" in told["error"]


def test_infinite_values_are_null_and_what_is_missing_is_said():
    """f = −inf for x > 1 and NaN for x < −1."""

    def f(x):
        inside = jnp.where(x[0] > 1, -jnp.inf, -jnp.sum(x**2))
        return jnp.where(x[0] < -1, jnp.nan, inside)

    energy = energies.from_log_density(f, spaces.Real((2,)))
    model = serve.Model(fitted(energy), held_out="no rows", with_log_z=False, limits=tight())
    with TestClient(serve.create_app(model), base_url=HERE) as client:
        answer = asked(client, "/score", rows=[[0.5, 1.0], [2.0, 0.0]])
        assert answer["log_density"] == [-1.25, None] and answer["energy"] == [1.25, None]
        assert answer["log_prob"] is answer["p_value"] is answer["log_z"] is None
        assert (
            answer["missing"]["p_value"] == "no rows" and "log Z" in answer["missing"]["log_prob"]
        )
        told = asked(client, "/score", 422, rows=[[0.0, 0.0], [-2.0, 0.0]])["error"]
        assert "rows[1]" in told and "nan" in told


def test_the_description_fits_the_service(client):
    document = strict(client.get("/openapi.json").text)
    assert set(document["paths"]) == {"/score", "/denoise", "/sample", "/health", "/model"}
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        if "post" not in methods:
            assert client.get(path).status_code == 200
            continue
        content = methods["post"]["requestBody"]["content"]["application/json"]
        schema = schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]
        answer = asked(client, path, **schema["examples"][0])
        answered = methods["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(answer) == set(schemas[answered["$ref"].rsplit("/", 1)[1]]["properties"])
    page = client.get("/").text  # by way of /docs
    assert "POST /score" in page and "flip_rate" in page
    icon = '<link rel="icon" href="data:,">'  # none, so that no browser asks for one
    assert page.count(icon) == 1
    assert not re.search(r"<script|<link|@import|(src|href)=\"(?!#)", page.replace(icon, ""))
