"""Purifiers of a benchmark as points: what robustness costs, and what attacks leave of images and scores."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.pages.labels import Label, add_labels
from experiments.pages.matrix_summary import MODES, Defense, mean_of
from experiments.pages.style import ADAPTIVE, INK, SOFT, UNAWARE, WIDTH, styled


@styled
def quality_figure(defenses: Sequence[Defense]) -> Figure:
    """Gain left under the worse kind of attacks against SSIM of purified clean images, and the Pareto front."""
    figure = Figure((WIDTH, 3.9), layout="constrained")
    ax = figure.subplots()
    points = np.array([[one.ssim, one.worst] for one in defenses])
    best = on_front(points)
    front = points[best][np.argsort(points[best][:, 0])]
    ax.plot(*points[~best].T, "o", mec=SOFT, mfc="white", ms=5)
    ax.plot(*front.T, "D-", color=UNAWARE, drawstyle="steps-pre", lw=1.2, ms=5)
    ax.set_xlabel("SSIM of purified clean images to clean ones        better quality \N{RIGHTWARDS ARROW}")
    ax.set(
        ylabel="\N{LEFTWARDS ARROW} more robust        Gain left, worse kind of attacks", ylim=(0, _above(points[:, 1]))
    )
    ax.margins(x=0.12)
    labels = [
        Label(one.purifier, point[None], UNAWARE if is_best else SOFT, bool(is_best))
        for one, point, is_best in zip(defenses, points, best)
    ]
    _settle(figure)
    _add_names(ax, labels, [front])
    return figure


def on_front(points: np.ndarray) -> np.ndarray:
    """Which of ``[points, 2]``, quality and gain left, no other one beats: as good in both, and better in one."""
    quality, gain = points.T
    as_good = (quality >= quality[:, None]) & (gain <= gain[:, None])
    better = (quality > quality[:, None]) | (gain < gain[:, None])
    return np.isfinite(points).all(axis=1) & ~(as_good & better).any(axis=1)


@styled
def gain_figure(defenses: Sequence[Defense]) -> Figure:
    """Gain left against the SSIM of purified attacked images to clean ones, and against their score."""
    figure = Figure((WIDTH, 7.0), layout="constrained")
    axes = figure.subplots(2, sharey=True)
    found = [[one.under(mode) for mode in MODES] for one in defenses]
    gains = np.array([[one.left.value for one in modes] for modes in found])
    ssim, score = (np.array([[getattr(one, name) for one in modes] for modes in found]) for name in ("ssim", "score"))
    for ax, values in zip(axes, (ssim, score)):
        ax.plot(values.T, gains.T, color=SOFT, lw=0.7, zorder=1)
        ax.plot(values[:, 0], gains[:, 0], "o", mec=UNAWARE, mfc="white", ms=5, label=MODES[False])
        ax.plot(values[:, 1], gains[:, 1], "D", color=ADAPTIVE, ms=5, label=MODES[True])
        ax.set(ylabel="Gain left", ylim=(0, _above(gains)))
        ax.margins(x=0.12)
    axes[0].set_xlabel("SSIM of purified attacked images to clean ones")
    axes[1].set_xlabel("Mean score of purified attacked images, share of the score range")
    clean = mean_of(one.clean for one in defenses)
    axes[1].axvline(clean, color=INK, lw=0.9, ls=(0, (4, 3)), label="Mean clean score")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=8)
    _settle(figure)
    for ax, values in zip(axes, (ssim, score)):
        points = np.stack([values, gains], axis=2)
        _add_names(ax, [Label(one.purifier, own, INK) for one, own in zip(defenses, points)], list(points))
    return figure


def _above(values: np.ndarray) -> float:
    """An end of an axis that leaves room for names above the largest value."""
    return 1.25 * float(np.max(values[np.isfinite(values)], initial=0.0)) or 1.0


def _settle(figure: Figure) -> None:
    """Lay a figure out for good: names are placed where there is room."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set(xlim=ax.get_xlim(), ylim=ax.get_ylim())


def _add_names(ax: Axes, labels: Sequence[Label], curves: Sequence[np.ndarray]) -> None:
    """Name points, as far as these are known."""
    finite = [label._replace(points=label.points[np.isfinite(label.points).all(axis=1)]) for label in labels]
    shown = [label for label in finite if len(label.points)]
    spots = np.concatenate([np.empty((0, 2)), *(label.points for label in shown)])
    lines = [curve[np.isfinite(curve).all(axis=1)] for curve in curves]
    add_labels(ax, shown, spots, np.empty((0, 4)), lines)
