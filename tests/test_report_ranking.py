"""The pages of a rank attack and of a search for targets: complete, self-contained, and safe with hostile names."""

import base64
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from ranking_runs import HOSTILE, METHODS, rank_attack_run, rank_targets_run
from test_report import Page, page_of

from experiments import cli
from experiments.pages import figures, ranking_files, run_files
from experiments.report import write_report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rank_attack_run(tmp_path_factory.mktemp("attack"))


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return rank_targets_run(tmp_path_factory.mktemp("targets"))


@pytest.fixture(scope="module")
def page(run):
    return page_of(run)


@pytest.fixture(scope="module")
def targets_page(targets):
    return page_of(targets)


def drawings(page):
    return [image for image in page.all("img") if image["src"].startswith("data:image/svg+xml;base64,")]


def header_of(html, css_class):
    table = html[html.index(f'class="{css_class}"') :]
    return re.findall(r">([^<]+)</th>", table[: table.index("</thead>")])


@pytest.mark.usefixtures("page", "targets_page")
def test_pages_load_nothing(run, targets):
    for folder in (run, targets):
        html = (folder / "report.html").read_text(encoding="utf-8")
        assert "default-src 'none'; img-src data:" in html
        assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|http://(?!www\.w3\.org/2000/svg)", html)
        for tag, attributes in Page(html).tags:
            for key in ("src", "srcset", "href", "data", "poster", "action"):
                assert (attributes.get(key) or "data:").startswith(("data:", "#")), (tag, key)


@pytest.mark.usefixtures("page", "targets_page")
def test_same_folder_gives_same_bytes(run, targets, tmp_path):
    figures.write_figures(run)  # the page does not depend on them
    for folder in (run, targets):
        again = write_report(folder, tmp_path / "again.html")
        assert again.read_bytes() == (folder / "report.html").read_bytes()


def test_figures_are_those_of_the_folder(run, page):
    files = [path.read_bytes() for path in figures.write_figures(run)]
    embedded = [base64.b64decode(image["src"].split(",", 1)[1]) for image in drawings(page)]
    assert sorted(embedded) == sorted(files)
    for image, content in zip(drawings(page), embedded):
        assert image["alt"]
        assert ElementTree.fromstring(content).get("viewBox")
        assert 690 < int(image["width"]) < 710


def test_the_page_is_that_of_an_attack_with_a_section_on_top(page):
    assert page.cards[0] in {HOSTILE, *(f"{k:04d}.png" for k in range(1, 12))}
    assert {"scatter", "histogram"} <= {figure.get("id") for figure in page.all("figure")}
    assert len(page.all("img", "difference")) == 12
    for part in ("rank attack report", "TinyIQA", "0.005", "about one method: SMA as published", "--method=sma"):
        assert part in page.text
    assert page.text.index("rank attack report") < page.text.index("Ranking") < page.text.index("Mean change")


def test_the_strongest_methods_are_emphasised(run, page):
    methods = ranking_files.read_methods(run_files.read_run(run))
    strongest = [ranking_files.best(methods, role).label for role in ("attack", "baseline")]
    assert len(page.all("tr", "best")) == 2
    for label, role in zip(strongest, ("attacks", "baselines")):
        assert f"{label}lowest SROCC of the {role}" in page.text
        assert any(label in image["alt"] for image in drawings(page))


def test_every_method_has_its_numbers(run, page):
    methods = ranking_files.read_methods(run_files.read_run(run))
    assert [method.name for method in methods] == ["clean", *METHODS]
    for method in methods:
        assert method.label in page.text
        for name in ("srocc", "mae"):
            value, low, high = (f"{v:z.{3 if name == 'srocc' else 2}f}" for v in method.measures[name])
            assert f"{value}{low} to {high}".replace("-", "\N{MINUS SIGN}") in page.text


def test_mos_columns_are_there_with_mos_only(tmp_path, run, page):
    clean = ["SROCC", "KROCC", "PLCC", "MAE", "R"]
    with_mos = header_of((run / "report.html").read_text(), "methods")
    assert with_mos[with_mos.index("SROCC") :] == [*clean, *clean[:3]]
    without = rank_attack_run(tmp_path, count=4, with_mos=False, with_reach=False)
    header = header_of(write_report(without).read_text(), "methods")
    assert header[header.index("SROCC") :] == clean
    assert "With MOS" in with_mos
    assert "With MOS" in page.text
    assert "With MOS" not in header


def test_names_and_labels_are_escaped(page, targets_page):
    assert not page.all("b") + page.all("i") + targets_page.all("b")
    assert HOSTILE in page.cards
    assert HOSTILE in targets_page.text
    assert METHODS["reversal"][0] in page.text


def test_targets_page(targets_page):
    for part in ("Target scores of a rank attack", "Targets and scores", "0.9870", "34.57", "1,000"):
        assert part in targets_page.text
    assert "--scores='my scores.csv'" in targets_page.text
    assert len(drawings(targets_page)) == 3
    assert not targets_page.all("article")
    assert len(targets_page.all("tr")) == 1 + 5 + 1 + 12


def test_targets_page_without_mos(tmp_path):
    html = write_report(rank_targets_run(tmp_path, with_mos=False)).read_text()
    assert header_of(html, "summary") == ["Statistic", "Targets and scores"]
    assert "MOS" not in Page(html).text


def test_an_ordinary_attack_has_no_ranking(tmp_path):
    folder = rank_attack_run(tmp_path, count=3)
    (folder / "methods.csv").unlink()
    config = folder / "config.json"
    config.write_text(config.read_text().replace("rank_attack", "attack_images"))
    page = page_of(folder)
    assert not drawings(page)
    assert "Ranking" not in page.text


DAMAGE = {
    r"methods\.csv is missing": lambda run: (run / "methods.csv").unlink(),
    r"rows\.csv is missing": lambda run: (run / "rows.csv").unlink(),
    r"targets\.csv is missing": lambda run: (run / "targets.csv").unlink(),
    r"summary\.json is missing": lambda run: (run / "summary.json").unlink(),
    r"frontier\.csv has no column family, mae, srocc": lambda run: (run / "frontier.csv").write_text("a,b\n"),
    r"trace\.csv, line 2, has not as many cells": lambda run: (run / "trace.csv").write_text(
        "step,agreement,variance,error,loss\n1,2\n"
    ),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items(), ids=list(DAMAGE))
def test_damaged_folder(tmp_path, message, damage):
    folder = rank_attack_run(tmp_path, count=3)
    damage(folder)
    remedy = rf".*; run python -m experiments\.rank_attack --out={re.escape(str(folder))} again to complete the folder$"
    with pytest.raises(cli.UserError, match=message + remedy):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_damaged_targets(tmp_path):
    folder = rank_targets_run(tmp_path)
    (folder / "summary.json").unlink()
    with pytest.raises(
        cli.UserError, match=r"summary\.json is missing; run python -m experiments\.rank_targets --out="
    ):
        write_report(folder)


def test_command_line(tmp_path):
    folder = rank_targets_run(tmp_path)
    (folder / "trace.csv").unlink()
    command = [sys.executable, "-m", "experiments.report", f"--run={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "trace.csv is missing" in done.stderr
