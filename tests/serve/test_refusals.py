"""Requests that are refused, with their reasons."""

import json

import numpy as np
import pytest
from starlette.testclient import TestClient

from energax import serve
from tests.serve.service import GOOD, HERE, asked, bits, f_of, strict


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
