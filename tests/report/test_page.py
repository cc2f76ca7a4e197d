"""Pages and their figures without a browser: what is told to the script, tables, and watching."""

import base64
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from energax import energies, random, report, samplers, spaces, tasks
from energax.report import figures
from energax.report._base import Panel, Series, coded, numbers, plotted

KEY = random.key(5)
CENTRE = np.array([1.5, -0.7])


def hill():
    return energies.from_log_density(
        lambda x: -jnp.sum((x - CENTRE) ** 2 / jnp.array([0.5, 2.0])), spaces.Real((2,))
    )


def decoded(text, low, high):
    """What `coded` wrote, read as the page's script reads it."""
    share = np.frombuffer(base64.b64decode(text), "<u2") / 65535
    return low + share * (high - low)


# ---- what figures tell the page ------------------------------------------------------------


def test_numbers_are_short_and_nothing_is_lost_on_the_way():
    values = np.array([1 / 3, -123456.789, 1e-12, 0.0, np.nan, np.inf, 7.0])
    told = numbers(values)
    assert told == [0.33333, -123460, 1e-12, 0, None, None, 7]
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert numbers(np.array([1234567.0]), 7) == [1234567]
    x = np.random.default_rng(0).normal(size=(5, 2))
    low, high = x.min(0), x.max(0)
    found = decoded(coded(x, low, high), 0, 1).reshape(5, 2) * (high - low) + low
    np.testing.assert_allclose(found, x, atol=float((high - low).max()) / 65535)


def test_a_long_curve_keeps_its_spikes():
    y = np.sin(np.arange(30_000) / 5_000)
    y[[12_345, 20_000]] = 9.0, -9.0
    y[5] = np.nan
    figure = plotted([Panel("step", [Series("loss", np.arange(30_000), y)])], "a curve")
    (series,) = figure.data["panels"][0]["series"]
    assert len(series["x"]) == len(series["y"]) <= 2_000
    assert series["x"] == sorted(series["x"])
    assert dict(zip(series["x"], series["y"], strict=True))[12_345] == 9
    assert dict(zip(series["x"], series["y"], strict=True))[20_000] == -9
    assert figure.png.startswith(b"\x89PNG")


def test_histograms_are_those_of_numpy():
    rng = np.random.default_rng(1)
    sets = {"train": rng.normal(3, 1, 4000), "test": rng.normal(4, 2, 900)}
    sets["test"][0] = np.inf
    (panel,) = figures.energy_histograms(sets).data["panels"]
    for series in panel["series"]:
        values = sets[series["name"]]
        edges = np.array(series["x"])
        wanted = np.histogram(values[np.isfinite(values)], edges, density=True)[0]
        np.testing.assert_allclose(series["y"], wanted, rtol=0.02, atol=2e-4)


def test_a_landscape_holds_the_density_and_the_chains_as_they_moved():
    energy = hill()
    options = {"sampler": samplers.Metropolis(), "num_chains": 4, "num_steps": 2_000}
    draws = samplers.sample(energy, 400, key=KEY, **options)
    data = figures.landscape(energy, {"Metropolis": draws}).data
    (xs, ys), size = (data["xs"], data["ys"]), data["size"]
    f = decoded(data["values"], data["low"], data["high"]).reshape(size, size)
    for i, j in ((0, 0), (60, 3), (17, 101)):
        x = np.array([np.linspace(*xs, size)[i], np.linspace(*ys, size)[j]])
        wanted = max(float(-np.sum((x - CENTRE) ** 2 / [0.5, 2.0])), data["low"])
        assert f[j, i] == pytest.approx(wanted, abs=2e-3)
    (run,) = data["runs"]
    assert (run["chains"], run["draws"], run["every"]) == (4, 100, "20 steps")
    moved = decoded(run["points"], 0, 1).reshape(100, 4, 2)
    moved = moved * [xs[1] - xs[0], ys[1] - ys[0]] + [xs[0], ys[0]]
    np.testing.assert_allclose(moved.transpose(1, 0, 2), draws.x, atol=2e-4)
    assert len(json.dumps(data)) < 100_000


def test_training_curves_of_any_history():
    step = np.arange(5.0)
    for names, shown in (
        (("loss",), [["loss"]]),
        (("loss", "gradient_norm"), [["loss"], ["gradient_norm"]]),
        (("energy_data", "energy_samples", "gap"), [["energy_data", "energy_samples"], ["gap"]]),
    ):
        figure = figures.training_curves({"step": step, **{name: step for name in names}})
        panels = figure.data["panels"]
        assert [[s["name"] for s in panel["series"]] for panel in panels] == shown


# ---- the page ------------------------------------------------------------------------------


def test_what_is_written_into_a_page_stays_text(tmp_path):
    page = report.Page("<b>rows</b>")
    evil = "</script><script>alert(1)</script>"
    figure = plotted([Panel(evil, [Series(evil, np.arange(3.0), np.arange(3.0))])], evil)
    page.section(evil, text=[evil], figures=[figure], table=[["row", evil], ["1", evil]])
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in text and "<b>rows" not in text
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert json.loads(data)["panels"][0]["x"] == evil
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)


def test_tables_say_what_their_cells_are():
    page = report.Page("t")
    table = [["row", "energy", "why"], ["7", "-1.5", "column 2"]]
    page.section("Rows", table=table, caption="odd rows", sortable=True)
    text = page.html()
    assert '<table class="sortable"><caption>odd rows</caption>' in text
    assert '<th scope="col">energy</th>' in text and '<th scope="row">7</th>' in text
    assert "<td>-1.5</td>" in text and '<td class="words">column 2</td>' in text


def test_unusual_rows_and_the_columns_that_made_them_so():
    rng = np.random.default_rng(2)
    energy = energies.from_log_density(lambda x: -jnp.sum(x**2) / 2, spaces.Real((4,)))
    train = rng.normal(size=(300, 4)).astype(np.float32)
    test = rng.normal(size=(50, 4)).astype(np.float32)
    test[13] = [0.1, 6.0, 0.2, -3.0]
    table, shown = report.unusual_rows(
        energy, test, reference=train, numbers=np.arange(50) + 100, most=10
    )
    assert shown == [] and len(table) == 11
    E = (test**2).sum(1) / 2
    assert [row[0] for row in table[1:]] == [str(i + 100) for i in np.argsort(-E)[:10]]
    first = dict(zip(table[0], table[1], strict=True))
    assert first["row"] == "113" and float(first["energy"]) == pytest.approx(E[13], abs=1e-3)
    assert float(first["p-value"]) == pytest.approx(1 / 301, rel=1e-2)
    assert (first["column"], first["its value"]) == ("column 1", "6")
    assert float(first["nats"]) == pytest.approx(18.0, abs=0.02)  # 6²/2 − near 0
    assert first["next columns"].startswith("column 3 (4.")
    assert abs(float(first["usual"])) < 0.1
    odd = tasks.anomaly_scores(energy, test, held_out=train)
    told = [float(row[2]) for row in table[1:]]
    np.testing.assert_allclose(told, np.sort(odd.p_values)[:10], rtol=1e-2)


def test_unusual_images_show_their_pixels():
    template = np.random.default_rng(3).random(16) < 0.5
    energy = energies.from_log_density(
        lambda x: 3.0 * jnp.sum(jnp.where(template, x, 1 - x)), spaces.Binary((16,))
    )
    rows = np.tile(template, (30, 1)).astype(np.float32)
    rows[4, 5] = 1 - rows[4, 5]
    table, shown = report.unusual_rows(energy, rows, reference=rows)
    assert table[1][0] == "4" and table[1][3] == "column 5" and float(table[1][6]) == 3
    assert table[2][3:] == ["none", "", "", "0", ""]
    assert len(shown) == 1 and "dark red 3" in shown[0].alt
