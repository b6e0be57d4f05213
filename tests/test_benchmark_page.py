"""The page of a benchmark of defenses: what it says first, its figures, tables and pictures, from tables alone."""

import base64
import re
import shutil

import numpy as np
import pytest
from benchmark_runs import ATTACKS, FLIP, GAIN, HIGH, HOSTILE, JPEG, KEEP, LEFT, benchmark_run
from matplotlib.colors import to_hex
from test_report import Page

from experiments.errors import UserError
from experiments.pages import matrix_figures, matrix_files, matrix_points, matrix_summary, run_files, style
from experiments.report import write_report

FIGURES = ("modes", "quality", "gain", "gain_robust", "srocc", "gain_points")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = benchmark_run(tmp_path_factory.mktemp("benchmark") / "run", with_mos=True)
    matrix_figures.write_figures(folder)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def read(folder):
    run = run_files.read_run(folder)
    cells = matrix_files.read_cells(run, matrix_summary.REQUIRED)
    return cells, {one.purifier: one for one in matrix_summary.summarise(run, cells)}


def table(page_text, name):
    """Values of the cells of a table by row."""
    body = page_text[page_text.index(f'id="{name}"') :].split("<tbody>")[1].split("</tbody>")[0]
    return [re.findall(r'data-value="([^"]*)"', row) for row in body.split("<tr")[1:]]


def test_the_first_lines_say_who_loses(page):
    finding = page.text[page.text.index("Without a purifier") :]
    assert finding.startswith(
        "Without a purifier, the attacks move scores by 0.300 of the score range. 1 of 4 purifiers"
    )
    assert "flip removes 0 % of the gain instead of 90 %." in finding
    assert "jpeg:preset=2 leaves least under the worse kind of attacks: 0.090, at an SSIM of 0.900" in finding
    assert len(page.all("tr", "lost")) == 1


def test_random_weights_are_marked(folder, page, tmp_path):
    assert "(random weights)" not in page.text
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace("tinyiqa:embedded", "cnniqa:x.pth, tinyiqa:random:protocol=grid"))
    assert "tinyiqa (random weights)" in Page(write_report(copy).read_text(encoding="utf-8")).text


def test_each_purifier_has_a_row_of_its_numbers(folder):
    """Gain left twice, removed twice, SSIM, PSNR, SROCC, milliseconds; the smallest gain under the worse kind first."""
    found = table((folder / "report.html").read_text(encoding="utf-8"), "purifiers")
    expected = [
        [left / HIGH for left in LEFT[name]]
        + [1 - left / GAIN for left in LEFT[name]]
        + [{FLIP: 0.4, JPEG: 0.9, HOSTILE: 0.8, KEEP: 1.0}[name], np.inf if name == KEEP else 30.0, 1.0, 250.0]
        for name in (JPEG, HOSTILE, FLIP, KEEP)
    ]
    np.testing.assert_allclose(np.array(found, float), expected, atol=1e-6)


def test_intervals_are_over_images(folder):
    jpeg = read(folder)[1][JPEG]
    assert jpeg.unaware.left.low < jpeg.unaware.left.value < jpeg.unaware.left.high
    assert jpeg.unaware.left.low >= 0.5 * LEFT[JPEG][0] / HIGH  # no image changes by less
    assert jpeg.unaware.left.high <= 1.5 * LEFT[JPEG][0] / HIGH


def test_only_attacks_with_a_pair_compare(tmp_path):
    """The second attack is twice as strong, and does not run through purifiers."""
    _, found = read(benchmark_run(tmp_path / "run", adaptive=ATTACKS[:1], left=LEFT | {KEEP: (57.0, 60.0)}))
    assert found[JPEG].undefended == pytest.approx(GAIN / HIGH)
    assert found[JPEG].unaware.left.value == pytest.approx(LEFT[JPEG][0] / HIGH)
    assert found[FLIP].is_lost
    assert not found[KEEP].is_lost  # there was next to nothing to lose


def test_images_that_one_cell_lacks_are_left_out(tmp_path):
    folder = benchmark_run(tmp_path / "run")
    path = folder / matrix_files.Cell("tinyiqa", ATTACKS[0], JPEG, True, "", {}).table
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("a.png")))
    left = read(folder)[1][JPEG].adaptive.left.value
    assert left == pytest.approx(np.mean([1.5, 0.75, 1.25]) * LEFT[JPEG][1] / HIGH)


def test_the_page_loads_nothing_and_is_the_same_each_time(folder, page, tmp_path):
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|http://", html)
    for tag, attributes in page.tags:
        for key in ("src", "srcset", "href", "data", "poster", "action"):
            assert (attributes.get(key) or "data:").startswith(("data:", "#")), (tag, key)
    assert write_report(folder, tmp_path / "again.html").read_text(encoding="utf-8") == html


def test_names_are_escaped(page):
    assert not page.all("b") + page.all("i")
    assert HOSTILE in page.text
    assert HOSTILE in [row.get("data-text") for row in page.all("th")]


def test_figures_are_vector_files_and_pixels(folder, page):
    embedded = [image["src"].split(",", 1) for image in page.all("img") if "svg" in image["src"][:20]]
    files = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    assert sorted(files) == sorted(f"{name}.{end}" for name in FIGURES for end in ("svg", "png"))
    assert [base64.b64decode(content) for _, content in embedded] == [files[f"{name}.svg"] for name in FIGURES]
    assert all(content.startswith(b"\x89PNG") for name, content in files.items() if name.endswith("png"))


@pytest.mark.parametrize(("score", "ascending"), [(matrix_summary.GAIN, True), (matrix_summary.SROCC, False)])
def test_heat_maps_sort_purifiers_by_their_mean(folder, score, ascending):
    cells, _ = read(folder)
    unaware, adaptive = matrix_figures.heat_map(cells, score, ascending=ascending).axes
    values = adaptive.images[0].get_array()
    means = values[:, 1:].mean(axis=0)
    assert list(means) == sorted(means, reverse=not ascending)
    assert [label.get_text() for label in adaptive.get_yticklabels()] == list(ATTACKS)
    names = [label.get_text() for label in adaptive.get_xticklabels()]
    assert sorted(names[1:]) == sorted(LEFT)
    if score == matrix_summary.GAIN:
        assert names == ["no purifier", JPEG, HOSTILE, FLIP, KEEP]
        np.testing.assert_allclose(values[0], [0.3, 0.09, 0.27, 0.3, 0.3], atol=1e-6)
        assert [text.get_text() for text in unaware.texts[:5]] == ["0.30", "0.06", "0.24", "0.03", "0.30"]


def test_bars_have_both_kinds_of_attacks(folder):
    (ax,) = matrix_figures.bars_figure(list(read(folder)[1].values())).axes
    unaware, adaptive = (bars for bars in ax.containers if hasattr(bars, "patches"))
    assert [bar.get_width() for bar in unaware] == pytest.approx([0.06, 0.24, 0.03, 0.3])
    assert [bar.get_width() for bar in adaptive] == pytest.approx([0.09, 0.27, 0.3, 0.3])
    assert [to_hex(bars[0].get_facecolor()) for bars in (unaware, adaptive)] == [style.UNAWARE, style.ADAPTIVE]
    assert unaware[0].get_hatch() != adaptive[0].get_hatch()  # they differ without colours, too


def test_nobody_beats_those_on_the_front():
    points = [[0.9, 0.1], [0.9, 0.2], [1.0, 0.3], [0.5, 0.1], [np.nan, 0.0], [0.95, 0.3], [1.0, 0.3]]
    assert matrix_points.on_front(np.array(points)).tolist() == [True, False, True, False, False, False, True]


def test_all_cells_are_in_a_table(folder, page):
    found = table((folder / "report.html").read_text(encoding="utf-8"), "cells")
    assert len(found) == len(ATTACKS) * len(LEFT) * 2
    assert "SROCC, MOS" in page.text
    assert [option.get("value") for option in page.all("option")].count("") == 3  # one model only: no choice
    assert float(found[1][0]) == pytest.approx(LEFT[FLIP][1] / HIGH)


def test_strips_are_in_the_order_of_purifiers(folder, page, tmp_path):
    pictures = [image["alt"] for image in page.all("img") if "svg" not in image["src"][:20]]
    assert pictures[:4] == [f"{name}, a.png" for name in ("clean", "adversarial", "purified", "difference")]
    assert len(pictures) == 2 * 4 * len(LEFT)
    strips = page.text[page.text.index("Pictures") :]
    assert strips.index("jpeg:preset=2 under an attack that does not") < strips.index("flip under an attack that knows")
    assert "Score 20.00 → 80.00 without the purifier, 22.00 → 25.00 behind it." in strips
    shorter = Page(write_report(folder, tmp_path / "short.html", max_gallery=1).read_text(encoding="utf-8"))
    assert len(shorter.all("article", "strip")) == 1


def test_without_adaptive_attacks_the_page_says_what_it_cannot_tell(tmp_path):
    folder = benchmark_run(tmp_path / "run", adaptive=(), left={FLIP: LEFT[FLIP]}, attacks=ATTACKS[:1])
    (folder / "attacked" / "flip_0_behind.png").unlink()
    (folder / "images" / "a.png").unlink()
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "No attack was computed through the purifiers" in page.text
    assert "Removed, adaptive" not in page.text
    assert "SROCC, MOS" not in page.text
    assert "The purified image is no longer there." in page.text
    assert "adversarial, a.png" in [image["alt"] for image in page.all("img")]


DAMAGE = {
    r"cells/tinyiqa/fgsm/flip/adaptive\.csv is missing": lambda run: (
        run / "cells" / "tinyiqa" / "fgsm" / "flip" / "adaptive.csv"
    ).unlink(),
    r"cells\.csv has no column": lambda run: (run / "cells.csv").write_text("model,attack\n"),
    r"times\.csv is missing": lambda run: (run / "times.csv").unlink(),
    r"cells\.csv has no rows": lambda run: (run / "cells.csv").write_text(
        (run / "cells.csv").read_text().splitlines()[0] + "\n"
    ),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items(), ids=list(DAMAGE))
def test_damaged_folder(tmp_path, message, damage):
    folder = benchmark_run(tmp_path / "run", left={FLIP: LEFT[FLIP]}, attacks=ATTACKS[:1])
    damage(folder)
    with pytest.raises(UserError, match=message + r".*; run python -m experiments\.benchmark --out=\S+ again"):
        write_report(folder)
    assert not (folder / "report.html").exists()
