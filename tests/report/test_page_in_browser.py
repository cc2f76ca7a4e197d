"""Whole reports in a real browser: all is shown, nothing is fetched, and everybody can use it."""

from itertools import pairwise

import pytest

from tests.report.scripts import CONTRAST, CUT, FIGURES, FOCUSED, LEVELS, REACHABLE, UNNAMED
from tests.report.seen import KINDS, opened

WIDTHS = (400, 1400)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_shown_and_nothing_runs_over(browser, reports, kind, width):
    with opened(browser, reports / kind / "report.html", width=width) as page:
        figures = page.evaluate(FIGURES)
        assert len(figures) >= 6
        for figure in figures:
            assert min(figure["natural"]) > 100 and figure["caption"], figure
            assert figure["seen"], figure
            for left, right, wide, high in figure["seen"]:
                assert wide > 150 and high > 30 and left >= 0 and right <= width, figure
        drawn = sum(figure["hidden"] for figure in figures)
        assert drawn == (6 if kind == "points" else 3)
        across = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        scroll, client = page.evaluate(across)
        assert scroll <= client == width
        # every word in a drawing is inside it, and every drawing has something in it
        assert page.evaluate(CUT) == []
        for plot in page.locator("svg").all():
            assert plot.locator("g.marks path").count() > 0
            assert plot.locator("text.x").count() >= 2 and plot.locator("text.y").count() >= 2


def test_without_scripts_there_are_pictures(browser, reports):
    path = reports / "points" / "report.html"
    with opened(browser, path, java_script_enabled=False) as page:
        assert page.locator("svg").count() == 0 and not page.locator("#hint").is_visible()
        pictures = page.locator("figure img")
        assert pictures.count() >= 6
        for picture in pictures.all():
            assert picture.is_visible() and picture.bounding_box()["width"] > 200
        assert page.locator("table.sortable tbody tr").count() == 30


def test_the_table_sorts_by_click_and_by_keyboard(browser, reports):
    with opened(browser, reports / "points" / "report.html") as page:
        table = page.locator("table.sortable")
        heads = table.locator("thead th")
        names = [text.strip() for text in heads.all_text_contents()]
        assert names[:3] == ["row", "energy", "p-value"]

        def column(i):
            return table.locator(f"tbody tr > :nth-child({i + 1})").all_text_contents()

        def sort_states():
            return [head.get_attribute("aria-sort") for head in heads.all()]

        energies = [float(v) for v in column(1)]
        assert len(energies) == 30 and energies == sorted(energies, reverse=True)
        rows = {r: e for r, e in zip(column(0), column(1), strict=True)}
        heads.nth(0).get_by_role("button").click()
        numbers = [int(v) for v in column(0)]
        assert numbers == sorted(numbers) and len(set(numbers)) == 30
        assert {r: e for r, e in zip(column(0), column(1), strict=True)} == rows  # rows stay whole
        assert sort_states() == ["ascending"] + [None] * (len(names) - 1)
        page.keyboard.press("Enter")  # the header has the focus now
        assert [int(v) for v in column(0)] == numbers[::-1]
        assert sort_states()[0] == "descending"
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert [float(v) for v in column(1)] == sorted(energies)
        assert sort_states()[:2] == [None, "ascending"]
        heads.nth(3).get_by_role("button").click()
        assert column(3) == sorted(column(3))


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_can_read_it(browser, reports, kind):
    with opened(browser, reports / kind / "report.html") as page:
        assert page.locator("html").get_attribute("lang") == "en" and page.title()
        levels = page.evaluate(LEVELS)
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert page.locator("main").count() == page.locator("nav[aria-label]").count() == 1
        for picture in page.locator("img").all():
            assert len(picture.get_attribute("alt")) > 10
        assert page.evaluate(UNNAMED) == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
        assert len(ids) == len(set(ids))
        for table in page.locator("table").all():
            assert table.locator("caption").text_content()
            assert table.locator("thead th[scope=col]").count() > 1
            rows = table.locator("tbody tr").count()
            assert table.locator("tbody th[scope=row]").count() == rows > 0
        found = page.evaluate(CONTRAST)
        assert len(found) > 200
        assert [each for each in found if each[0] < 4.5] == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser, reports):
    with opened(browser, reports / "points" / "report.html") as page:
        wanted = page.evaluate(REACHABLE)
        seen = set()
        for _ in range(wanted + 2):
            page.keyboard.press("Tab")
            place, outline = page.evaluate(FOCUSED)
            if place is not None:
                assert outline, page.evaluate("document.activeElement.outerHTML.slice(0, 99)")
                seen.add(place)
        assert len(seen) == wanted > 30
