"""The page in a real browser: dividers, sorting, filtering, charts, narrow screens, and contrast."""

import json
import re

import numpy as np
import pytest
from browser import needs_browser, started
from PIL import Image

from experiments.ledger import ATTACK_COLUMNS
from experiments.report import write_report

pytestmark = needs_browser

ROWS = [  # name, clean score, adversarial score, L-infinity, PSNR, SSIM
    ("a.png", 70, 60, 3, "inf", 0.99),
    ("b.png", 50, 80, 4, 40.0, 0.90),
    ("d.png", 30, 50, 1, 36.5, ""),
    ("sub/C<1>.png", 20, 30, 2, 35.5, 0.95),
]
BLACK, WHITE = (10, 10, 10), (240, 240, 240)


@pytest.fixture(scope="module")
def session():
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = [ATTACK_COLUMNS, ["bad.png", "failed", "is empty", *[""] * 10]]
    for name, clean, adversarial, linf, psnr, ssim in ROWS:
        for root, colour in (("images", BLACK), ("adversarial", WHITE)):
            (folder / root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (320, 240), colour).save(folder / root / name)
        rows.append([name, "ok", "", 240, 320, clean, adversarial, adversarial, linf, 1.0, psnr, ssim, 11])
    (folder / "rows.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    model = {"name": "M", "score_range": [0, 100], "citation": "https://a.org/" + "x" * 200}
    config = {"flags": {"attack": "pgd", "images": "y" * 200}, "model": model, "images_root": str(folder / "images")}
    entry = {"label": "A long name of a statistic", "value": -0.123456789, "low": -0.2, "high": 0.2, "note": "z " * 40}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps({"statistics": {"s": entry}, "warnings": ["w" * 200]}))
    return write_report(folder).as_uri()


@pytest.fixture
def browser(session, page):
    session.fresh(page)
    yield session
    assert session.complaints() == []


def shown(browser):
    """First letters of the file names in the gallery."""
    names = browser.js("return [...document.querySelectorAll('.card:not([hidden])')].map(c => c.ariaLabel)")
    return "".join(name.split("/")[-1][0] for name in names)


def stage_box(browser):
    """Bounds of the first picture in the viewport: x, y, width, height."""
    return browser.js("""const stage = document.querySelector('.pair'); stage.scrollIntoView({block: 'center'});
      const box = stage.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]""")


def split(browser):
    """Where the adversarial picture is cut and where the slider stands, in percent."""
    clip, value = browser.js("""const stage = document.querySelector('.pair');
      return [getComputedStyle(stage.querySelector('.adversarial')).clipPath, stage.querySelector('input').value]""")
    return float(re.search(r"([\d.]+)(%|px)\)$", clip)[1]), float(value)


def test_divider_follows_the_pointer(browser):
    x, y, width, height = stage_box(browser)
    assert split(browser) == (50, 50)
    browser.drag((x + width * 0.5, y + height * 0.3), (x + width * 0.6, y + height * 0.3), (x + width * 0.8, y + 9))
    assert split(browser) == pytest.approx((80, 80), abs=1)
    row = browser.screenshot()[round(y + height * 0.8)]
    assert [tuple(row[round(x + width * part)]) for part in (0.75, 0.85)] == [BLACK, WHITE]
    browser.drag((x + width * 0.5, y + height * 0.3), (x - 9, y + height * 0.3))
    assert split(browser) == (0, 0)


def test_divider_follows_the_keys(browser):
    browser.on(".pair input", "value", text="\ue014\ue014\ue014\ue012")  # right, right, right, left
    assert split(browser) == (52, 52)
    browser.on(".pair input", "value", text="\ue010")  # end
    assert split(browser) == (100, 100)
    assert browser.js("return document.querySelector('.pair input').getAttribute('aria-valuetext')") == "100 % clean"


# First letters of the file names, ascending and descending. Ties go by name; d has no SSIM and stays last.
SORTED = {
    "size": ("aCdb", "bdaC"),
    "name": ("abdC", "Cdba"),
    "score_clean": ("Cdba", "abdC"),
    "score_adversarial": ("Cdab", "badC"),
    "change": ("aCdb", "bdCa"),
    "linf_255": ("dCab", "baCd"),
    "psnr": ("Cdba", "abdC"),
    "ssim": ("bCad", "aCbd"),
}


@pytest.mark.parametrize("key", SORTED)
def test_sorting_both_ways(browser, key):
    browser.on(f"#sort option[value={key}]", "click")
    down = shown(browser)
    browser.on("#direction", "click")
    assert (shown(browser), down) == SORTED[key]


def test_filtering(browser):
    browser.on("#filter", "value", text="c<1")
    assert shown(browser) == "C"
    assert browser.js("return document.querySelector('#shown').textContent") == "1 shown"
    browser.on("#filter", "value", text="nothing")
    assert shown(browser) == ""
    assert browser.js("return !document.querySelector('#nothing').hidden")
    browser.js("document.querySelector('.controls').reset()")
    browser.on("#side option[value=lowered]", "click")
    assert shown(browser) == "a"


def test_difference_toggles(browser):
    script = """return [...document.querySelectorAll('.card')].map(card =>
      [card.querySelector('.difference').checkVisibility(), card.querySelector('.toggle').ariaPressed])"""
    off, on = [False, "false"], [True, "true"]
    browser.on(".card:nth-child(2) .toggle", "click")
    assert browser.js(script) == [off, on, off, off]
    browser.on("#all-differences", "click")
    assert browser.js(script) == [on] * 4
    x, y, width, height = stage_box(browser)
    assert tuple(browser.screenshot()[round(y + height / 2), round(x + width / 4)]) == (255, 255, 255)
    browser.on("#all-differences", "click")
    assert browser.js(script) == [off] * 4


def test_points_name_and_reach_their_cards(browser):
    tip = "const tip = document.querySelector('.tip'); return tip.hidden ? null : tip.textContent"
    assert browser.js("document.querySelector('.point').focus();" + tip) == "sub/C<1>.png: 20.00 → 30.00 (+10.00)"
    browser.on(".point", "value", text="\ue014")
    assert browser.js(tip).startswith("d.png")
    browser.on("#filter", "value", text="nothing like it")
    browser.on(".point:last-of-type circle", "click")
    assert browser.js("return document.querySelector('.card:target').ariaLabel") == "a.png"
    assert len(shown(browser)) == 4


def test_charts(browser):
    ticks = browser.js("return [...document.querySelectorAll('#scatter .tick')].map(t => t.textContent)")
    assert ticks == [str(k) for k in range(0, 101, 20)] * 2
    bars = browser.js("return [...document.querySelectorAll('.bar title')].map(t => t.textContent)")
    assert sum(int(re.search(r": (\d+) image", bar)[1]) for bar in bars) == len(ROWS)


@pytest.mark.parametrize("width", [320, 360, 768])
def test_no_horizontal_scroll(browser, width):
    browser.size(width, 780)
    browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.js("return document.documentElement.scrollWidth") <= width
    columns = browser.js("return getComputedStyle(document.querySelector('.grid')).gridTemplateColumns")
    assert len(columns.split()) == (1 if width <= 360 else 2)


def luminance(colour):
    channels = np.array([int(c) for c in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colour_scheme_and_contrast(browser, scheme):
    browser.media(scheme)
    script = """let node = document.querySelector(arguments[0]), text = getComputedStyle(node).color, behind;
      while ((behind = getComputedStyle(node).backgroundColor) === 'rgba(0, 0, 0, 0)') node = node.parentElement;
      return [text, behind]"""
    for selector in ("p.lead", "dt", ".note", "button", ".warnings h2", "a", "span.raised", "span.lowered"):
        low, high = sorted(map(luminance, browser.js(script, selector)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    page = luminance(browser.js("return getComputedStyle(document.body).backgroundColor"))
    assert page < 0.05 if scheme == "dark" else page > 0.8
