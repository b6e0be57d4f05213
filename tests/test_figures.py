"""The figures of a rank attack: the same bytes every time, legible, and complete without the optional numbers."""

import subprocess
import sys
import warnings
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from ranking_runs import METHODS, rank_attack_run, rank_targets_run, write
from scipy import stats

from experiments.errors import UserError
from experiments.pages import figures, frontier, ranking_files, run_files, style
from nriqa_jax.metrics.correlation import mae as mae_of
from nriqa_jax.metrics.correlation import srocc as srocc_of

RANK_ATTACK = ("frontier.svg", "scores.svg", "ranks.svg", "trace.svg")
RANK_TARGETS = ("frontier.svg", "scores.svg", "trace.svg")


@pytest.fixture
def run(tmp_path):
    return rank_attack_run(tmp_path)


def figures_of(folder):
    return figures.make_figures(run_files.read_run(folder))


def test_same_bytes_in_a_fresh_process_whatever_the_user_prefers(run):
    with matplotlib.rc_context(
        {"lines.linewidth": 9, "svg.fonttype": "none", "font.family": "serif", "figure.dpi": 50}
    ):
        paths = figures.write_figures(run)
    assert paths == [run / "figures" / name for name in RANK_ATTACK]
    assert matplotlib.rcParams["text.parse_math"]  # the style does not stay
    first = [path.read_bytes() for path in paths]
    code = "import sys; from pathlib import Path; from experiments.pages.figures import write_figures; "
    code += "write_figures(Path(sys.argv[1])); assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(run)], check=True)
    assert [path.read_bytes() for path in paths] == first


@pytest.mark.parametrize("with_mos", [True, False])
def test_figures_of_targets(tmp_path, with_mos):
    run = rank_targets_run(tmp_path, with_mos=with_mos)
    drawn = figures_of(run)
    assert [f"{name}.svg" for name in drawn] == list(RANK_TARGETS)
    (panel,) = drawn["scores"].axes
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["clean score", "target"]


def test_files_are_svg_that_needs_nothing(run):
    for path in figures.write_figures(run):
        root = ElementTree.fromstring(path.read_bytes())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        for node in root.iter():
            assert not node.tag.endswith(("}text", "}script", "}date")), path.name  # letters are outlines
            links = [value for key, value in node.attrib.items() if key.endswith("href")]
            assert all(value.startswith(("#", "data:")) for value in links)


@pytest.mark.parametrize("missing", ["with_mos", "with_reach"])
def test_optional_numbers(tmp_path, missing):
    run = rank_attack_run(tmp_path, **{missing: False})
    drawn = figures_of(run)
    assert [f"{name}.svg" for name in drawn] == list(RANK_ATTACK)
    legend = [text.get_text() for text in drawn["scores"].axes[0].get_legend().get_texts()]
    assert ("reachable" in legend) == (missing != "with_reach")


def test_a_method_without_targets(tmp_path):
    panel = figures_of(rank_attack_run(tmp_path, shown="away"))["scores"].axes[0]
    assert "target" not in [text.get_text() for text in panel.get_legend().get_texts()]


def test_one_method_alone(tmp_path):
    drawn = figures_of(rank_attack_run(tmp_path, methods=("reach_wide",), shown="reach_wide"))
    assert [len(drawn[name].axes) for name in ("scores", "ranks")] == [1, 1]


def test_ranks(run):
    targets = ranking_files.read_targets(run_files.read_run(run))
    drawn = figures_of(run)["ranks"].axes
    assert [ax.get_title(loc="left").replace("\n", " ") for ax in drawn[:2]] == [
        METHODS[n][0] for n in ("sma", "reach")
    ]
    for ax, name in zip(drawn, ("sma", "reach")):
        x, y = ax.lines[-1].get_data()
        np.testing.assert_array_equal(x, stats.rankdata(targets.score))
        np.testing.assert_array_equal(y, stats.rankdata(targets.reached[name]))
        srocc, mae = (fn(targets.score, targets.reached[name]) for fn in (srocc_of, mae_of))
        assert ax.texts[-1].get_text() == f"SROCC {figures.number(srocc, 3)}, MAE {figures.number(mae)}"
        assert to_hex(ax.lines[-1].get_color()) == style.COLOURS[name]


def test_scores_are_in_order(run):
    scores, reach = figures_of(run)["scores"].axes
    clean = scores.lines[0].get_ydata()
    assert list(clean) == sorted(clean)
    assert to_hex(reach.lines[-1].get_markerfacecolor()) == style.COLOURS["reach"]


def test_better_is_said_on_the_axes(run):
    (ax,) = figures_of(run)["frontier"].axes
    assert ax.get_xlabel().endswith("stronger attack \N{RIGHTWARDS ARROW}")
    assert ax.get_ylabel().startswith("\N{LEFTWARDS ARROW} stronger attack")
    assert [line.get_linestyle() for line in ax.lines if len(line.get_xdata()) == 6] == ["--", "-"]
    assert any(set(line.get_ydata()) == {0} for line in ax.lines)


def marks_at(changes, sroccs):
    interval = ranking_files.Interval
    return [
        frontier.Mark(
            f"A method of number {k}", "#000000", "o", interval(y, y - 0.03, y + 0.03), interval(x, x - 1, x + 1)
        )
        for k, (x, y) in enumerate(zip(changes, sroccs))
    ]


@pytest.mark.parametrize(("seed", "width", "height"), [(0, 30, 1), (1, 3, 0.1), (2, 0.5, 0.02), (3, 0, 0)])
def test_no_label_covers_another(seed, width, height):
    rng = np.random.default_rng(seed)
    marks = marks_at(rng.uniform(20, 20 + width, 8), rng.uniform(-0.9, -0.9 + height, 8))
    points = [ranking_files.Point(f, -1 + k / 20, 15.0 + 3 * k) for f in ("sma", "reach") for k in range(10)]
    figure = frontier.frontier_figure(points, marks)
    renderer = FigureCanvasAgg(figure).get_renderer()
    (ax,) = figure.axes
    boxes = [text.get_window_extent(renderer) for text in ax.texts]
    assert len(boxes) == 10
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    frame = ax.get_window_extent(renderer).padded(1)
    assert all(frame.contains(*box.p0) and frame.contains(*box.p1) for box in boxes)


def test_only_the_best_baseline_stands_out(run):
    methods = ranking_files.read_methods(run_files.read_run(run))
    strongest = ranking_files.best(methods, "baseline")
    marks = {mark.label: mark for mark in frontier.marks(methods)}
    assert [label for label, mark in marks.items() if mark.colour == style.COLOURS["baseline"]] == [strongest.label]
    assert [mark.in_legend for mark in marks.values()].count(True) == 1
    assert len({mark.shape for mark in marks.values()}) == 4  # clean, attack, and each baseline


def test_constant_scores_and_empty_tables(tmp_path):
    run = rank_targets_run(tmp_path)
    write(run / "targets.csv", [["image", "score", "mos", "target"], ["a", 5, "", 5], ["b", 5, "", 5]])
    for name in ("trace", "frontier"):
        path = run / f"{name}.csv"
        path.write_text(path.read_text().splitlines()[0] + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(figures.write_figures(run)) == 3
    (note,) = figures_of(run)["scores"].axes[0].texts
    assert note.get_text() == "SROCC \N{EN DASH}, MAE 0.00"


def test_many_images_are_stored_as_pixels(tmp_path):
    scores = np.arange(20_000.0)
    panel = figures.Panel("A", "", "#0072b2", scores, scores)
    assert len(style.to_svg(figures.ranks_figure(scores, [panel]))) < 300_000


def spoil(name, old, new):
    def change(run):
        text = (run / name).read_text(encoding="utf-8")
        assert old in text
        (run / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


AGAIN = r"; run python -m experiments\.rank_attack --out=\S+ again to complete the folder$"
DAMAGE = {
    r"run/methods\.csv is missing" + AGAIN: lambda run: (run / "methods.csv").unlink(),
    r"run/targets\.csv is missing" + AGAIN: lambda run: (run / "targets.csv").unlink(),
    r"run/trace\.csv is missing" + AGAIN: lambda run: (run / "trace.csv").unlink(),
    r"run/frontier\.csv is missing" + AGAIN: lambda run: (run / "frontier.csv").unlink(),
    r"config\.json is missing" + AGAIN: lambda run: (run / "config.json").unlink(),
    r"methods\.csv has no column krocc_low" + AGAIN: spoil("methods.csv", "krocc_low", "other"),
    r"targets\.csv has no column high, low" + AGAIN: spoil("targets.csv", "low,high", "a,b"),
    r"targets\.csv has no column reached_sma" + AGAIN: spoil("targets.csv", "reached_sma", "other"),
    r"trace\.csv, line 2, has '100x' instead of a number as step" + AGAIN: spoil("trace.csv", "100", "100x"),
    r"frontier\.csv, line 2, has not as many cells as the header" + AGAIN: spoil("frontier.csv", "sma,", "sma,more,"),
    r"trace\.csv, line 2, has not as many cells": spoil("trace.csv", "100,0.800000", "100"),
}


@pytest.mark.parametrize(("message", "damage"), DAMAGE.items(), ids=list(DAMAGE))
def test_damaged_folder(run, message, damage):
    damage(run)
    with pytest.raises(UserError, match=message) as caught:
        figures.write_figures(run)
    assert "\n" not in str(caught.value)
    assert not (run / "figures").exists()


def test_another_run_has_no_figures(run):
    (run / "methods.csv").unlink()
    spoil("config.json", "rank_attack", "attack_images")(run)
    with pytest.raises(
        UserError, match="run of attack_images, without figures; give one of rank_attack or rank_targets"
    ):
        figures.write_figures(run)
