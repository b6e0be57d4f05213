"""The page of a run folder: complete, self-contained, the same bytes every time, and safe with hostile names."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from experiments import cli
from experiments.ledger import ATTACK_COLUMNS, SCORE_COLUMNS
from experiments.report import write_report

MODEL = {"name": "TinyIQA", "score_range": [0, 100], "higher_is_better": True}
MODEL["citation"] = "A. Author, A paper, 2020. https://doi.org/10.1000/182"
WEIRD = "sub/<b>&\"quoted\" 'ünï' {{ 7*7 }}.png"


def write_table(path, rows, columns=ATTACK_COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def pictures(seed, size=(24, 32)):
    """A clean image and one that differs by at most 4 levels, and by 4 somewhere."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(8, 248, (*size, 3)).astype(np.uint8)
    change = rng.integers(-4, 5, clean.shape)
    change[0, 0] = 4
    return clean, (clean + change).astype(np.uint8)


def attack_run(folder, changes, failed=(), size=(24, 32), summary=None):
    """A run folder with one image for each entry of `changes`: name -> change of score."""
    rows = []
    for seed, (name, change) in enumerate(sorted(changes.items())):
        for root, pixels in zip((folder / "images", folder / "run" / "adversarial"), pictures(seed, size)):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name)
        rows.append([name, "ok", "", *size, 40, 40 + change, 40 + change, 4.0, 0.5, 38.1234, 0.95, 11])
    rows += [[name, "failed", error, *[""] * 10] for name, error in failed]
    (folder / "run").mkdir(exist_ok=True)
    write_table(folder / "run" / "rows.csv", sorted(rows))
    flags = {"model": "tinyiqa", "attack": "ifgsm", "objective": "raise", "epsilon": "4/255", "images": "my photos"}
    config = {"script": "attack_images", "flags": flags, "images_root": str(folder / "images"), "model": MODEL}
    counts = {"total": len(rows), "ok": len(changes), "failed": len(failed)}
    statistic = {"label": "Mean change", "value": 12.345678, "low": 10.0, "high": None, "note": "of the score"}
    default = {"images": counts, "statistics": {"mean_change": statistic}, "diagnostics": {}, "warnings": []}
    (folder / "run" / "config.json").write_text(json.dumps(config))
    (folder / "run" / "summary.json").write_text(json.dumps(default | (summary or {})))
    return folder / "run"


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._hidden = [], "", ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._hidden = tag if tag in ("style", "script") else ""

    def handle_endtag(self, tag):
        self._hidden = ""

    def handle_data(self, data):
        if not self._hidden:
            self.text += re.sub(r"\s+", " ", data)

    def all(self, tag, css_class=""):
        return [a for t, a in self.tags if t == tag and css_class in (a.get("class") or "")]

    @property
    def cards(self):
        return [card["aria-label"] for card in self.all("article")]


def page_of(run, **options):
    return Page(write_report(run, **options).read_text(encoding="utf-8"))


def decode(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))


@pytest.fixture
def run(tmp_path):
    return attack_run(tmp_path, {"a.png": 20.0, "b.png": -30.5, WEIRD: 5.0}, [("<i>x</i>.jpg", "is <empty>")])


def test_page_loads_nothing(run):
    html = write_report(run).read_text(encoding="utf-8")
    for tag, attributes in Page(html).tags:
        for key in ("src", "srcset", "href", "data", "poster", "action"):
            value = attributes.get(key) or ""
            allowed = tag == "a" and value == "https://doi.org/10.1000/182"
            assert value.startswith(("data:", "#")) or allowed or not value, (tag, key, value)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|http://(?!www\.w3\.org/2000/svg)", html)
    assert "default-src 'none'" in html


def test_same_folder_gives_same_bytes(run, tmp_path):
    first = write_report(run).read_bytes()
    assert write_report(run, tmp_path / "new" / "other.html").read_bytes() == first
    assert len(list(run.iterdir())) == 5  # no draft stays behind


def test_pictures_are_embedded_without_loss(tmp_path):
    page = page_of(attack_run(tmp_path, {"a.png": 20.0}))
    clean, adversarial = pictures(0)
    difference = 128 + 10 * (adversarial.astype(int) - clean)
    for name, pixels in (("clean", clean), ("adversarial", adversarial), ("difference", difference)):
        (image,) = page.all("img", name)
        np.testing.assert_array_equal(decode(image["src"]), pixels)
        assert "a.png" in image["alt"]


@pytest.mark.parametrize(("size", "shown"), [((300, 600), (256, 512)), ((1000, 1), (512, 1)), ((512, 20), (512, 20))])
def test_long_side_is_at_most_512(tmp_path, size, shown):
    page = page_of(attack_run(tmp_path, {"a.png": 1.0}, size=size))
    assert {decode(image["src"]).shape[:2] for image in page.all("img")} == {shown}
    assert ("Shown at" in page.text) == (size != shown)


def test_names_and_errors_are_escaped(run):
    page = page_of(run)
    assert not page.all("b")
    assert not page.all("i")
    assert WEIRD in page.cards
    assert WEIRD in [row.get("data-name") for row in page.all("tr")]
    assert "<i>x</i>.jpg" in page.text
    assert "is <empty>" in page.text


def test_numbers_and_settings_are_shown(run):
    text = page_of(run).text
    for part in ("TinyIQA", "ifgsm", "4/255", "4, 1 failed", "higher score", "12.35", "of the score"):
        assert part in text
    for part in ("\N{MINUS SIGN}30.50", "+20.00", "38.12 dB", "--images='my photos'"):
        assert part in text


def test_infinite_and_missing_numbers(tmp_path):
    run = attack_run(tmp_path, {"a.png": 0.0})
    row = ["a.png", "ok", "", 24, 32, 40, 40, 40, 4.0, 0.0, "inf", "", 0]
    write_table(run / "rows.csv", [row])
    assert re.search(r"PSNR ?∞ dB ?SSIM ?\N{EN DASH}", re.sub(r" +", " ", page_of(run).text))


def test_warnings_come_first(tmp_path):
    run = attack_run(
        tmp_path, {"a.png": 1.0}, summary={"warnings": ["Look <here>."], "images": {"total": 3, "failed": 0}}
    )
    text = page_of(run).text
    assert text.index("Look <here>.") < text.index("Mean change")
    assert "counts 3 images but rows.csv has 1" in text


def test_clean_image_that_is_gone_damaged_or_other(run, tmp_path):
    (tmp_path / "images" / "a.png").unlink()
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    Image.new("RGB", (5, 5)).save(tmp_path / "images" / WEIRD)
    page = page_of(run)
    assert len(page.all("img", "adversarial")) == 3
    assert not page.all("img", "clean") + page.all("img", "difference") + page.all("input", "range")
    for part in ("The clean image is no longer there", "The clean image is not an image", "no longer has the size"):
        assert part in page.text
    Image.new("RGB", (32, 24)).save(tmp_path / "images" / "a.png")
    assert "one has changed since the run" in page_of(run).text


def test_adversarial_files_of_one_stem(tmp_path):
    run = attack_run(tmp_path, {"a.png": 1.0, "a.bmp": 2.0})
    for name in ("a.png", "a.bmp"):
        Image.open(run / "adversarial" / name).save(run / "adversarial" / f"{name}.png")
        (run / "adversarial" / name).unlink()
    assert len(page_of(run).all("img", "difference")) == 2


def test_gallery_limit(tmp_path):
    run = attack_run(tmp_path, {"a.png": 1.0, "d.png": -9.0, "c.png": 9.0, "b.png": 5.0})
    page = page_of(run, max_gallery=3)
    assert page.cards == ["c.png", "d.png", "b.png"]
    assert "3 of 4 images" in page.text
    assert len(page.all("tr")) == 2 + 1 + 4  # summary, then the table of all images
    assert not page_of(run, max_gallery=0).all("img")


@pytest.mark.parametrize("with_summary", [False, True])
def test_scoring_run(tmp_path, with_summary):
    run = attack_run(tmp_path, {f"{k}.png": 0.0 for k in range(5)})
    (run / "rows.csv").unlink()
    if not with_summary:
        (run / "summary.json").unlink()
    rows = [[f"{k}.png", "ok", "", 24, 32, 10.5 * k] for k in range(5)]
    write_table(run / "scores.csv", rows, SCORE_COLUMNS)
    page = page_of(run, max_gallery=3)
    assert page.cards == ["4.png", "2.png", "0.png"]
    assert [figure["id"] for figure in page.all("figure")] == ["histogram"]
    assert len(page.all("img", "clean")) == 3
    assert not page.all("input", "range") + page.all("img", "adversarial")
    assert "42.00" in page.text


@pytest.mark.parametrize("failed", [[], [("a.png", "is empty")]])
def test_run_without_a_finished_image(tmp_path, failed):
    page = page_of(attack_run(tmp_path, {}, failed))
    assert not page.all("article") + page.all("figure")
    assert "No image finished" in page.text


DAMAGE = {
    r"is not a run folder.*attack_images.*score_images": lambda run: (run / "rows.csv").unlink(),
    r"config\.json is missing; run python -m experiments\.attack": lambda run: (run / "config.json").unlink(),
    r"summary\.json is missing": lambda run: (run / "summary.json").unlink(),
    r"config\.json is not valid JSON": lambda run: (run / "config.json").write_text("{"),
    r"config\.json does not hold a JSON object": lambda run: (run / "config.json").write_text("[]"),
    r"no column error, l2, linf_255": lambda run: (run / "rows.csv").write_text("image,score\n"),
    r"line 2, lacks a number": lambda run: write_table(run / "rows.csv", [["a", "ok", "", *["x"] * 10]]),
    r"line 2, lacks a number; expected": lambda run: write_table(run / "rows.csv", [["a", "ok", "", 1]]),
    r"--out=.*cannot be written": lambda run: (run / "report.html").mkdir(),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items(), ids=list(DAMAGE))
def test_damaged_folder(run, message, damage):
    damage(run)
    with pytest.raises(cli.UserError, match=message):
        write_report(run)


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "experiments.report", f"--run={tmp_path / 'none'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert done.stderr.count("\n") == 1
