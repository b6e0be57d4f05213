"""The page of a benchmark of defenses in a real browser: sorting, filtering, narrow screens."""

import pytest
from benchmark_runs import FLIP, HOSTILE, JPEG, KEEP, benchmark_run
from browser import needs_browser, started

from experiments.report import write_report

pytestmark = needs_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(benchmark_run(tmp_path_factory.mktemp("benchmark") / "run", with_mos=True)).as_uri()


@pytest.fixture(scope="module")
def session():
    with started() as browser:
        yield browser


@pytest.fixture
def browser(session, page):
    session.fresh(page)
    yield session
    assert session.complaints() == []


def names_in(browser, table):
    script = """return [...document.querySelectorAll(arguments[0] + ' tbody tr:not([hidden])')]
      .map(row => row.cells[0].dataset.text ?? row.cells[2].textContent)"""
    return browser.js(script, table)


def test_tables_sort_at_a_click(browser):
    assert names_in(browser, "#purifiers") == [JPEG, HOSTILE, FLIP, KEEP]
    browser.on("#purifiers th:nth-child(2) button", "click")
    assert names_in(browser, "#purifiers") == [FLIP, JPEG, HOSTILE, KEEP]
    browser.on("#purifiers th:nth-child(7) button", "click")  # PSNR: ties by name, infinity is the largest
    assert names_in(browser, "#purifiers") == [HOSTILE, FLIP, JPEG, KEEP]
    browser.on("#purifiers th:nth-child(7) button", "click")
    assert names_in(browser, "#purifiers") == [KEEP, HOSTILE, FLIP, JPEG]
    assert browser.js("return [...document.querySelectorAll('#purifiers [aria-sort]')].map(h => h.ariaSort)") == [
        "descending"
    ]


def test_the_table_of_cells_filters(browser):
    count = "return document.querySelector('[data-table=cells] output').textContent"
    assert browser.js(count) == "16 of 16 rows"
    browser.on("[data-table=cells] option:nth-child(3)", "click")  # the second attack
    assert browser.js(count) == "8 of 16 rows"
    browser.on("[data-table=cells] input", "value", text="JPEG")
    assert names_in(browser, "#cells") == [JPEG] * 2
    browser.on("[data-table=cells] button", "click")
    browser.js("return new Promise(done => setTimeout(done, 50))")
    assert browser.js(count) == "16 of 16 rows"


@pytest.mark.parametrize("width", [320, 768])
def test_narrow_screens_do_not_scroll_sideways(browser, width):
    browser.size(width, 780)
    assert browser.js("return document.documentElement.scrollWidth") <= width
