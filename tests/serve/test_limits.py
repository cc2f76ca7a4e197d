"""Many requests at once, and what one may cost."""

import asyncio
import time

import pytest

from energax import serve
from tests.serve.service import GOOD, asked, at_once, bits, post, slow_model, strict, tight


def test_many_requests_at_once_get_the_answers_of_single_ones(model, client):
    sets = [bits(1 + seed % 13, seed).tolist() for seed in range(60)]
    alone = [asked(client, "/score", rows=rows) for rows in sets]
    together = at_once(serve.create_app(model), *map(post, sets))
    assert [strict(response.text) for response in together] == alone


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
