"""What tests of the service share: a small model whose answers are known, and ways to ask it."""

import asyncio
import http.client
import itertools
import json
import socket
import threading

import httpx2
import numpy as np

from energax import serve, training

HERE = "http://127.0.0.1"
W = np.array(
    [[1.2, -0.7, 0.4], [-0.9, 1.1, 0.8], [0.6, 0.9, -1.3], [-0.5, 0.7, 1.0], [1.4, -1.2, 0.3]]
)
VISIBLE, HIDDEN = np.array([0.3, -0.2, 0.5, -0.6, 0.1]), np.array([-0.4, 0.2, 0.6])
GOOD = b'{"rows":[[0,1,1,0,1],[1,0,0,0,1]]}'
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


def strict(text):
    """JSON without the words that Python allows and JSON does not."""

    def refuse(word):
        raise AssertionError(f"{word} in an answer")

    return json.loads(text, parse_constant=refuse)


def asked(client, path, status=200, **body):
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return strict(response.text)


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
