"""Figures in a real browser: values under the pointer, zoom, and the chains that move."""

import base64
import json
import re

import numpy as np
import pytest

from energax import training
from tests.report.seen import opened, panel_called, point_at, readout, ticks, until


def test_pointing_at_a_curve_reads_the_history(browser, reports):
    history = training.load(reports / "points").history
    with opened(browser, reports / "points" / "report.html") as page:
        panel = panel_called(page, "Training")
        assert readout(panel) == ""
        for across in (0.3, 0.7):
            point_at(page, panel, across)
            found = re.fullmatch(r"step (\d+): energy_data (\S+) · loss (\S+)", readout(panel))
            assert found, readout(panel)
            step = int(found.group(1))
            assert abs(step / 200 - across) < 0.1
            for name, told in (("energy_data", found.group(2)), ("loss", found.group(3))):
                assert float(told) == pytest.approx(history[name][step], rel=1e-3)
        panel.locator("svg").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert readout(panel).startswith(f"step {step + 2}: ")
        page.mouse.move(0, 0)
        page.keyboard.press("Tab")
        assert readout(panel) == ""


def test_pointing_reads_every_kind_of_panel(browser, reports):
    with opened(browser, reports / "points" / "report.html") as page:
        for title, words in (
            ("column 0", r"column 0 \S+ to \S+: data \S+ · draws \S+"),
            ("Pairs of columns", r"(data|draws): column 0 \S+, column 1 \S+"),
            ("Traces", r"draw \d+: chain 0 \S+( · chain \d \S+){7}"),
            ("Chains on the density", r"x₀ \S+, x₁ \S+: f \S+"),
        ):
            panel = panel_called(page, title)
            point_at(page, panel, 0.5)
            assert re.fullmatch(words, readout(panel)), (title, readout(panel))
        panel = panel_called(page, "column 0")
        (data,) = [
            s
            for f in page.locator("figure script").all_text_contents()
            for p in json.loads(f).get("panels", [])
            if p["title"] == "column 0"
            for s in p["series"]
            if s["name"] == "data"
        ]
        point_at(page, panel, 0.35)
        low, value = re.match(r"column 0 (\S+) to .* data (\S+) ·", readout(panel)).groups()
        i = min(range(30 - 1), key=lambda k: abs(data["x"][k] - float(low)))
        assert float(value) == pytest.approx(data["y"][i], rel=1e-3)
        # other columns of the pairs, by choice
        page.get_by_label("across:").select_option("1")
        panel = panel_called(page, "Pairs of columns")
        point_at(page, panel, 0.5)
        assert re.fullmatch(r"(data|draws): column 1 (\S+), column 1 \2", readout(panel))


@pytest.mark.parametrize("title", ["Training", "Pairs of columns", "Chains on the density"])
def test_zoom_changes_the_axes_and_reset_brings_them_back(browser, reports, title):
    both = title != "Training"
    with opened(browser, reports / "points" / "report.html") as page:
        panel = panel_called(page, title)
        plot = panel.locator("svg")
        home = ticks(panel), ticks(panel, "y")
        span = home[0][-1] - home[0][0]

        def is_closer():
            now = ticks(panel)
            return now[-1] - now[0] < 0.8 * span and (
                not both or np.ptp(ticks(panel, "y")) < np.ptp(home[1])
            )

        def reset():
            panel.get_by_role("button", name=re.compile("^Reset")).click()
            assert (ticks(panel), ticks(panel, "y")) == home

        panel.get_by_role("button", name=re.compile("^Zoom in")).click()
        assert is_closer()
        reset()
        point_at(page, panel, 0.5)
        before = page.evaluate("scrollY")
        page.mouse.wheel(0, -300)  # not asked for: the page scrolls
        until(page, f"scrollY !== {before}")
        assert (ticks(panel), ticks(panel, "y")) == home
        plot.scroll_into_view_if_needed()
        plot.focus()
        point_at(page, panel, 0.5)
        for _ in range(4):
            page.mouse.wheel(0, -100)
        page.wait_for_timeout(100)
        assert is_closer()
        page.keyboard.press("0")
        assert (ticks(panel), ticks(panel, "y")) == home
        page.keyboard.press("+")
        page.keyboard.press("+")
        assert is_closer()
        closer = ticks(panel)
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        assert ticks(panel)[-1] > closer[-1] and ticks(panel)[0] > closer[0]
        page.keyboard.press("-")
        plot.dblclick()
        assert (ticks(panel), ticks(panel, "y")) == home
        # a box by Shift and the mouse; then what is seen is dragged to the left
        page.keyboard.down("Shift")
        point_at(page, panel, 0.4, 0.3)
        page.mouse.down()
        point_at(page, panel, 0.6, 0.6)
        assert plot.locator("rect[fill-opacity]").count() == 1
        page.mouse.up()
        page.keyboard.up("Shift")
        assert is_closer()
        boxed = ticks(panel)
        page.mouse.down()
        point_at(page, panel, 0.2, 0.6)
        page.mouse.up()
        assert ticks(panel)[-1] > boxed[-1]
        reset()


def test_curves_are_hidden_and_shown_by_their_names(browser, reports):
    with opened(browser, reports / "points" / "report.html") as page:
        panel = panel_called(page, "Training")
        name = panel.get_by_role("button", name="loss, shown in the figure")
        curves = panel.locator("g.marks path").count()
        high = ticks(panel, "y")
        name.click()
        assert name.get_attribute("aria-pressed") == "false"
        assert panel.locator("g.marks path").count() == curves - 1
        assert ticks(panel, "y") != high  # y follows what is left
        point_at(page, panel, 0.5)
        assert "loss" not in readout(panel)
        name.press("Enter")
        assert panel.locator("g.marks path").count() == curves


# ---- the chains ----------------------------------------------------------------------------


def told_draws(page):
    """(draws, chains, 2) of the first run, as the page was told them."""
    (text,) = [t for t in page.locator("figure script").all_text_contents() if "landscape" in t]
    data = json.loads(text)
    run = data["runs"][0]
    share = np.frombuffer(base64.b64decode(run["points"]), "<u2") / 65535
    low, high = np.array([data["xs"], data["ys"]]).T
    return share.reshape(run["draws"], run["chains"], 2) * (high - low) + low


def chains_at(panel):
    found = panel.locator("circle.chain")
    return [(c.get_attribute("cx"), c.get_attribute("cy")) for c in found.all()]


def test_the_chains_stand_still_until_they_are_played(browser, reports):
    with opened(browser, reports / "points" / "report.html") as page:
        panel = panel_called(page, "Chains on the density")
        draws = told_draws(page)
        told = panel.locator(".told")
        assert told.text_content().startswith(f"draw 1 of {len(draws)} of 8 chains")
        page.wait_for_timeout(500)
        assert told.text_content().startswith("draw 1 of")
        first = chains_at(panel)
        assert len(first) == 8
        panel.get_by_role("button", name="Play the chains").click()
        until(page, "!document.querySelector('.told').textContent.startsWith('draw 1 ')")
        pause = panel.get_by_role("button", name="Pause the chains")
        pause.click()
        paused = told.text_content()
        assert chains_at(panel) != first
        page.wait_for_timeout(400)
        assert told.text_content() == paused
        number = int(re.match(r"draw (\d+)", paused).group(1))
        panel.get_by_role("button", name="One draw on").press("Enter")
        assert told.text_content().startswith(f"draw {number + 1} of")
        slider = panel.get_by_label("Draw of the chains")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert told.text_content().startswith(f"draw {number - 1} of")
        assert slider.get_attribute("aria-valuetext") == told.text_content()
        page.keyboard.press("End")
        assert told.text_content().startswith(f"draw {len(draws)} of {len(draws)}")
        page.keyboard.press("Home")
        assert chains_at(panel) == first
        # where a chain is drawn, the pointer reads where its draw was
        box = panel.locator("svg").bounding_box()
        for circle, place in zip(first, draws[0], strict=True):
            page.mouse.move(box["x"] + float(circle[0]), box["y"] + float(circle[1]))
            x, y = re.match(r"x₀ (\S+), x₁ (\S+):", readout(panel)).groups()
            np.testing.assert_allclose([float(x), float(y)], place, atol=0.03)
        panel.locator("svg").focus()
        page.keyboard.press("Space")
        assert panel.get_by_role("button", name="Pause the chains").is_visible()
        page.keyboard.press("Space")
        assert panel.get_by_role("button", name="Play the chains").is_visible()


def test_a_faster_film_ends_and_begins_again(browser, reports):
    with opened(browser, reports / "points" / "report.html") as page:
        panel = panel_called(page, "Chains on the density")
        panel.get_by_label("speed").select_option("60")
        panel.get_by_label("Draw of the chains").focus()
        page.keyboard.press("End")
        panel.get_by_role("button", name="One draw back").click()
        panel.get_by_role("button", name="Play the chains").click()
        panel.get_by_role("button", name="Play the chains").wait_for()
        number, last = re.match(
            r"draw (\d+) of (\d+)", panel.locator(".told").text_content()
        ).groups()
        assert number == last
        past = panel.locator("g.marks path").first.get_attribute("d")
        assert past.count("M") == 8 * int(last)
        panel.get_by_label("draws so far").uncheck()
        assert panel.locator("g.marks path").first.get_attribute("d").count("M") == 1
        picture = panel.locator("svg image")
        before = picture.get_attribute("href")
        panel.get_by_label("shade").select_option("log")
        assert picture.get_attribute("href") != before
        panel.get_by_role("button", name="Play the chains").click()
        until(page, f"!document.querySelector('.told').textContent.startsWith('draw {last} of')")


def test_where_motion_is_welcome_the_chains_start_once_they_are_seen(browser, reports):
    path = reports / "points" / "report.html"
    with opened(browser, path, reduced_motion="no-preference") as page:
        page.wait_for_timeout(300)
        told = page.locator(".told")
        assert told.text_content().startswith("draw 1 of")  # far below what is seen
        panel_called(page, "Chains on the density").locator("svg").scroll_into_view_if_needed()
        until(page, "!document.querySelector('.told').textContent.startsWith('draw 1 ')")
        page.emulate_media(reduced_motion="reduce")
        page.get_by_role("button", name="Play the chains").wait_for()
