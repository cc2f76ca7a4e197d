"""The service: answers as computed by hand, refusals with their reasons, limits, and its end."""

import asyncio
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import httpx2
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from starlette.testclient import TestClient

from energax import cli, energies, serve, spaces, training

HERE = "http://127.0.0.1"
W = np.array(
    [[1.2, -0.7, 0.4], [-0.9, 1.1, 0.8], [0.6, 0.9, -1.3], [-0.5, 0.7, 1.0], [1.4, -1.2, 0.3]]
)
VISIBLE, HIDDEN = np.array([0.3, -0.2, 0.5, -0.6, 0.1]), np.array([-0.4, 0.2, 0.6])
STATES = np.array(list(itertools.product([0.0, 1.0], repeat=5)))


def fitted(energy, reasons=()):
    return training.Fit(energy, {}, not reasons, reasons, None, 0)


def f_of(rows):
    """log Σ_h exp(b·v + c·h + vWh), each term by hand."""
    rows, hidden = np.asarray(rows), np.array(list(itertools.product([0.0, 1.0], repeat=3)))
    return np.logaddexp.reduce(
        (rows @ VISIBLE)[:, None] + hidden @ HIDDEN + rows @ W @ hidden.T, axis=1
    )


def bits(num, seed=0):
    return STATES[np.random.default_rng(seed).integers(0, 32, num)]


def tight(**changes):
    return serve.Limits(**{"max_body": 200_000, "max_rows": 2_000, "max_seconds": 300.0} | changes)


@pytest.fixture(scope="module")
def model():
    return serve.Model(
        fitted(energies.BernoulliRBM(W, VISIBLE, HIDDEN)), held_out=bits(99, 7), limits=tight()
    )


@pytest.fixture(scope="module")
def client(model):
    with TestClient(serve.create_app(model), base_url=HERE) as client:
        yield client


def strict(text):
    """JSON without the words that Python allows and JSON does not."""

    def refuse(word):
        raise AssertionError(f"{word} in an answer")

    return json.loads(text, parse_constant=refuse)


def asked(client, path, status=200, **body):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return strict(response.text)


# ---- answers ---------------------------------------------------------------------------------


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
    assert not re.search(r"@import|(src|href)=\"(?!#|data:)", page)  # it fetches nothing


# ---- refusals --------------------------------------------------------------------------------

GOOD = b'{"rows":[[0,1,1,0,1],[1,0,0,0,1]]}'


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "truncated"),
        (b"rows", 400, "malformed"),
        (b"\xff\xfe\x00", 400, "malformed"),
        (b"\xef\xbb\xbf" + GOOD, 400, "malformed"),
        (GOOD + b"x", 400, "trailing"),
        (GOOD[:-1], 400, "truncated"),
        (b'{"rows":[[0,1,NaN,0,1]]}', 400, "malformed"),
        (b'{"rows":[[0,1,-Infinity,0,1]]}', 400, "malformed"),
        (b'{"rows":[[0,1,01,0,1]]}', 400, "malformed"),
        (b'{"\xff":1}', 400, "UTF-8"),
        (b"null", 422, "Expected `object`, got `null`"),
        (b"[[0,1,1,0,1]]", 422, "Expected `object`, got `array`"),
        (b"{}", 422, "missing required field `rows`"),
        (b'{"rows":[]}', 422, "length >= 1"),
        (b'{"rows":[[]]}', 422, "rows[0]: expected 5 numbers, got 0"),
        (b'{"rows":[[0,1,1,0,1],[0,1,1,0]]}', 422, "rows[1]: expected 5 numbers, got 4"),
        (b'{"rows":[0,1,1,0,1]}', 422, "Expected `array`, got `int` - at `$.rows[0]`"),
        (b'{"rows":{"0":[0,1,1,0,1]}}', 422, "Expected `array`, got `object`"),
        (b'{"rows":[["0",1,1,0,1]]}', 422, "Expected `float`, got `str` - at `$.rows[0][0]`"),
        (b'{"rows":[[null,1,1,0,1]]}', 422, "got `null`"),
        (b'{"rows":[[true,1,1,0,1]]}', 422, "got `bool`"),
        (b'{"rows":[[0,1,2,0,1]]}', 422, "expected only 0 and 1, got 2.0"),
        (b'{"rows":[[0,1,0.5,0,1]]}', 422, "expected only 0 and 1"),
        (b'{"rows":[[0,1,1e999,0,1]]}', 422, "out of range"),
        (b'{"rows":[[0,1,' + b"9" * 5_000 + b",0,1]]}", 422, "out of range"),
        (b'{"rows":[[0,1,1,0,1]],"row":1}', 422, "unknown field `row`"),
        (b'{"rows":[[0,1,1,0,1]],"' + b"k" * 5_000 + b'":1}', 422, "unknown field `kkk"),
        (b'{"rows":[[0,1,1,0,1]],"rows":[[0,1,1,0,1]]}', 422, "rows twice"),
        (b'{"rows":[[0,1,1,0,1]],"r\\u006fws":[[0,1,1,0,1]]}', 422, "rows twice"),
        (b'{"rows":' + b"[" * 1_500 + b"]" * 1_500 + b"}", 422, "got `array`"),
        (b'{"rows":' + b"[" * 90_000 + b"]" * 90_000 + b"}", 413, "at most 2,000 rows"),
        (b'{"rows":[[0' + b",0" * 20_000 + b"]]}", 413, "at most 2,000 rows"),
        (b'{"a":' * 15_000 + b"1" + b"}" * 15_000, 422, "unknown field `a`"),
        (b" " * 200_001, 413, "at most 200,000 bytes"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else None,
)
def test_a_wrong_body_is_refused_with_the_reason(client, body, status, words):
    response = client.post("/score", content=body, headers={"Content-Type": "application/json"})
    told = strict(response.text)
    assert response.status_code == told["status"] == status, told
    assert words in told["error"] and len(told["error"]) < 400


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        ("POST", "/score", {}, 415, "got none"),
        ("POST", "/score", {"Content-Type": "text/plain"}, 415, "application/json"),
        ("POST", "/score", {"Content-Type": "application/json; charset=utf-16"}, 415, "UTF-8"),
        (
            *("POST", "/score"),
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            *(415, "compressed"),
        ),
        (
            *("POST", "/score"),
            {"Content-Type": "application/json", "Content-Length": "many"},
            *(400, "whole number"),
        ),
        (
            *("POST", "/score"),
            {"Content-Type": "application/json", "Content-Length": "9" * 40},
            *(413, "bytes"),
        ),
        ("GET", "/score", {}, 405, "POST /score"),
        ("DELETE", "/model", {}, 405, "GET /model"),
        ("POST", "/scores", {}, 404, "POST /score"),
        ("POST", "/score/", {}, 404, "POST /score"),
        ("GET", "/../etc/passwd", {}, 404, "expected one of"),
        ("GET", "/health", {"Host": "evil.example"}, 421, "evil.example"),
        ("GET", "/health", {"Host": "127.0.0.1.evil.example"}, 421, "of this machine"),
        ("GET", "/health", {"Host": "[::1"}, 421, "of this machine"),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(client, method, path, headers, status, words):
    response = client.request(
        method, path, content=GOOD if method == "POST" else b"", headers=headers
    )
    told = strict(response.text)
    assert response.status_code == told["status"] == status, told
    assert words in told["error"]
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "[::1]:80", "127.8.8.8"])
def test_names_of_this_machine_are_let_through(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_any_host_where_it_was_asked_for(model):
    with TestClient(serve.create_app(model, any_host=True), base_url=HERE) as client:
        assert client.get("/health", headers={"Host": "score.example"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/sample", {"num": 0}, ">= 1"),
        ("/sample", {"num": 2.5}, "Expected `int`, got `float`"),
        ("/sample", {"num": 1, "seed": -1}, ">= 0"),
        ("/sample", {"num": 1, "seed": 2**40}, "<= 4294967295"),
        ("/denoise", {"rows": [[0, 1, 1, 0, 1]]}, "expected flip_rate"),
        ("/denoise", {"rows": [[0, 1, 1, 0, 1]], "flip_rate": 0.5}, "< 0.5"),
        ("/denoise", {"rows": [[0, 1, 1, 0, 1]], "flip_rate": 1e-300}, "between 0 and 0.5"),
    ],
)
def test_wrong_questions_are_refused(client, path, body, words):
    assert words in asked(client, path, 422, **body)["error"]


def test_more_draws_than_rows_allowed_are_refused(client):
    assert "at most 2,000" in asked(client, "/sample", 413, num=2_001)["error"]


def judged(body):
    """What Python's own reader makes of a body: rows, or None where it should be refused."""

    def once(pairs):
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def no_constant(word):
        raise ValueError(word)

    try:
        read = json.loads(body.decode("utf-8"), object_pairs_hook=once, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return None
    if not isinstance(read, dict) or set(read) != {"rows"} or not isinstance(read["rows"], list):
        return None
    for row in read["rows"]:
        if not isinstance(row, list) or len(row) != 5:
            return None
        if not all(type(value) in (int, float) and value in (0, 1) for value in row):
            return None
    return read["rows"] or None


def broken(rng):
    """A good body with a few bytes changed, left out, doubled or put in."""
    body = bytearray(
        json.dumps({"rows": bits(int(rng.integers(1, 4)), rng.integers(99)).tolist()}).encode()
    )
    pieces = [b"[", b"]", b"{", b"}", b'"', b",", b":", b"0", b"1", b"1.0", b"-", b"e", b"NaN"]
    pieces += [b"null", b"true", b'"rows":', b" ", b"\\", b"\x00", b"\xff", b"\n", b"1e400", b"[0]"]
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(body)))
        width = int(rng.integers(0, 3))
        body[at : at + width] = pieces[rng.integers(len(pieces))] if rng.random() < 0.8 else b""
    return bytes(body)


def test_random_bodies_are_answered_or_refused_as_another_reader_judges(client):
    rng = np.random.default_rng(0)
    statuses = []
    for _ in range(600):
        body = broken(rng)
        rows = judged(body)
        response = client.post("/score", content=body, headers={"Content-Type": "application/json"})
        statuses.append(response.status_code)
        if rows is None:
            assert response.status_code in (400, 413, 422), (body, response.text)
            assert strict(response.text)["error"]
        else:
            assert response.status_code == 200, (body, response.text)
            np.testing.assert_allclose(
                strict(response.text)["log_density"], f_of(rows), rtol=1e-5, atol=1e-5
            )
    assert 5 < statuses.count(200) < 300 and statuses.count(400) > 50


def test_an_internal_fault_is_told_without_its_traceback(model, monkeypatch, capsys):
    def fails(request, deadline):
        raise RuntimeError("a secret")

    monkeypatch.setattr(model, "score", fails)
    with TestClient(serve.create_app(model), base_url=HERE) as client:
        response = client.post("/score", content=GOOD, headers={"Content-Type": "application/json"})
    assert response.status_code == 500 and "secret" not in response.text
    err = capsys.readouterr().err
    assert "RuntimeError: a secret" in err and "Traceback" not in err


# ---- many at once, and limits ----------------------------------------------------------------


def at_once(app, *requests):
    """The answers to requests that are all made at the same time, by functions of a client."""

    async def all_of_them():
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url=HERE, timeout=300) as client,
        ):
            return await asyncio.gather(*(request(client) for request in requests))

    return asyncio.run(all_of_them())


def post(rows, path="/score", **more):
    return lambda client: client.post(path, json={"rows": rows, **more})


def test_many_requests_at_once_get_the_answers_of_single_ones(model, client):
    sets = [bits(1 + seed % 13, seed).tolist() for seed in range(60)]
    alone = [asked(client, "/score", rows=rows) for rows in sets]
    together = at_once(serve.create_app(model), *map(post, sets))
    assert [strict(response.text) for response in together] == alone


def slow_model(model, monkeypatch, limits):
    """The model, which scores nothing until told to; (how often it began, the permission)."""
    began, may = [], threading.Event()
    score = model.score

    def waits(request, deadline):
        began.append(1)
        assert may.wait(60)
        return score(request, deadline)

    monkeypatch.setattr(model, "score", waits)
    monkeypatch.setattr(model, "limits", limits)
    return began, may


def test_what_takes_too_long_is_refused_and_does_not_pile_up(model, monkeypatch):
    began, may = slow_model(model, monkeypatch, tight(max_seconds=1.0))
    app = serve.create_app(model)

    async def later(client):
        await asyncio.sleep(2.0)
        assert began == [1]  # one ran, and none of those in line had begun
        health = strict((await client.get("/health")).text)
        assert health["waiting"]["scores"] == 64
        may.set()
        while strict((await client.get("/health")).text)["waiting"]["scores"]:
            await asyncio.sleep(0.05)
        return await post(bits(2).tolist())(client)

    start = time.monotonic()
    *early, last = at_once(app, *[post(bits(2).tolist())] * 80, later)
    statuses = [response.status_code for response in early]
    assert statuses.count(503) == 64 and statuses.count(429) == 16
    for response in early:
        told = strict(response.text)["error"]
        assert "within 1 s" in told or "in line" in told
        assert response.headers["retry-after"] == "1"
    assert last.status_code == 200 and began == [1, 1]
    assert time.monotonic() - start < 30


def test_a_body_that_does_not_come_and_one_without_length_that_is_too_long(model, monkeypatch):
    monkeypatch.setattr(model, "limits", tight(max_seconds=0.5, max_body=1_000))
    headers = {"Content-Type": "application/json"}

    async def slow():
        yield GOOD[:10]
        await asyncio.sleep(5)
        yield GOOD[10:]

    async def long():
        for _ in range(20):
            yield b" " * 100

    responses = at_once(
        serve.create_app(model),
        lambda client: client.post("/score", content=slow(), headers=headers),
        lambda client: client.post("/score", content=long(), headers=headers),
    )
    assert [response.status_code for response in responses] == [408, 413]
    assert "10 bytes" in strict(responses[0].text)["error"]


def test_limits_that_nothing_could_keep_are_refused():
    for wrong in ({"max_rows": 0}, {"max_body": 0}, {"max_seconds": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            serve.Limits(**wrong)
    with pytest.raises(ValueError, match="max_seconds"):
        serve.Limits(max_seconds=float("nan"))


# ---- the server ------------------------------------------------------------------------------


def test_it_ends_by_itself_or_when_told_and_answers_till_then(model):
    for ending in ("lifetime", signal.SIGINT, signal.SIGTERM):
        app, sock = serve.create_app(model), serve.bind("127.0.0.1", 0)
        host, port = sock.getsockname()[:2]
        found = []

        def ask(host=host, port=port, found=found, ending=ending):
            found.append(ask_once(host, port))
            if ending != "lifetime":
                os.kill(os.getpid(), ending)

        thread = threading.Thread(target=ask)
        start = time.monotonic()
        idle = serve.run(
            app,
            sock,
            max_lifetime=1.0 if ending == "lifetime" else 60.0,
            on_start=thread.start,
        )
        thread.join()
        assert idle and found[0][0] == 200 and len(found[0][1]["energy"]) == 2
        assert time.monotonic() - start < 30
        with pytest.raises(OSError):
            ask_once(host, port)


def test_who_still_waits_when_it_ends_is_told(model, monkeypatch):
    began, may = slow_model(model, monkeypatch, tight(max_seconds=100.0))
    app, sock = serve.create_app(model), serve.bind("127.0.0.1", 0)
    monkeypatch.setattr(serve.server, "GRACE_SECONDS", 0.5)
    found = []

    def ask():
        found.append(ask_once(*sock_name))
        may.set()

    sock_name = sock.getsockname()[:2]
    thread = threading.Thread(target=ask)
    serve.run(app, sock, max_lifetime=1.0, on_start=thread.start)
    thread.join()
    status, told = found[0]
    assert status == 503 and "told to end" in told["error"] and began == [1]


def ask_once(host, port, body=GOOD, timeout=120):
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("POST", "/score", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, strict(response.read())
    finally:
        connection.close()


def raw(host, port, sent):
    """What bytes on a socket are answered with."""
    with socket.create_connection((host, port), timeout=120) as connection:
        connection.sendall(sent)
        return connection.recv(65_536)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on disk, fitted at once by its moments."""
    folder = tmp_path_factory.mktemp("served")
    np.save(folder / "rows.npy", bits(200, 4))
    options = ["--model", "independent", "--objective", "moments", "--space", "binary"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", str(folder / "rows.npy"), "--out", str(folder / "run"), *options])
    assert not stop.value.code
    return folder


def test_the_command_serves_until_sigterm(folder):
    command = [sys.executable, "-m", "energax.cli", "serve", str(folder / "run"), "--json"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--max-seconds", "2", "--max-lifetime", "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = strict(process.stdout.readline())
        assert told["reliable"] and told["num_columns"] == 5
        host, port = urlsplit(told["url"]).hostname, urlsplit(told["url"]).port
        status, answer = ask_once(host, port)
        rows = bits(200, 4)
        held_out = set(np.random.default_rng(0).permutation(200)[:40])
        p = rows[[i for i in range(200) if i not in held_out]].mean(0)
        asked_for = np.array(json.loads(GOOD)["rows"])
        truth = (asked_for * np.log(p) + (1 - asked_for) * np.log(1 - p)).sum(1)
        assert status == 200
        np.testing.assert_allclose(answer["log_prob"], truth, rtol=1e-4)
        assert len(answer["p_value"]) == 2
        head = b"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        for lines, wanted in (
            (b"Content-Length: 9\r\n\r\n" + GOOD, b" 400 "),  # too short: the rest is no request
            (b"Content-Length: -1\r\n\r\n" + GOOD, b" 400 "),
            (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + GOOD, b" 400 "),
            (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + GOOD, b" 400 "),
            (b"X: " + b"y" * 100_000 + b"\r\n\r\n", b" 400 "),
        ):
            answered = raw(host, port, head + lines)
            assert wanted in answered.split(b"\r\n")[0] and b"Traceback" not in answered
        assert b" 400 " in raw(host, port, b"\x16\x03\x01\x02\x00\r\n\r\n")
        assert b" 408 " in raw(host, port, head + b"Content-Length: 900\r\n\r\n" + GOOD)
        assert ask_once(host, port)[0] == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and out == "" and "Traceback" not in err, err
    assert "the service has ended" in err


def ended(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    return stop.value.code or 0, capsys.readouterr()


def test_wrong_usage_is_one_line(folder, capsys):
    run = folder / "run"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, status, words in (
            (["serve", folder, "--port", 0], 2, "energax fit"),
            (["serve", run, "--host", "0.0.0.0"], 2, "--expose"),
            (["serve", run, "--host", "no.such.host.invalid"], 2, "no such host"),
            (["serve", run, "--max-seconds", 0], 2, "max_seconds"),
            (["serve", run, "--port", 70_000], 2, "--port"),
            (["serve", run, "--max-lifetime", "nan"], 2, "--max-lifetime"),
            (["serve", run, "--port", port], 1, "Address already in use"),
        ):
            code, said = ended(*arguments, capsys=capsys)
            assert code == status and words in said.err and said.out == "", said.err
            assert len(said.err.strip().splitlines()) == 1


def test_strict_does_not_serve_what_is_not_reliable(tmp_path, capsys):
    np.save(tmp_path / "few.npy", bits(12))
    options = ["--model", "independent", "--objective", "moments", "--space", "binary"]
    ended("fit", tmp_path / "few.npy", "--out", tmp_path / "run", *options, capsys=capsys)
    code, said = ended("serve", tmp_path / "run", "--port", 0, "--strict", capsys=capsys)
    assert code == 3 and "held-out rows cannot give" in said.err and said.out == ""


def test_without_its_data_it_serves_all_but_p_values(folder, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", bits(60, 2))
    options = ["--model", "independent", "--objective", "moments", "--space", "binary"]
    ended("fit", tmp_path / "rows.npy", "--out", tmp_path / "run", *options, capsys=capsys)
    (tmp_path / "rows.npy").unlink()
    command = ["serve", tmp_path / "run", "--port", 0, "--json", "--max-lifetime", 0.1]
    code, said = ended(*command, capsys=capsys)
    assert code == 0 and "gone or has changed" in said.err
    assert strict(said.out)["reliable"]
