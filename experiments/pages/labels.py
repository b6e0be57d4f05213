"""Put labels beside the points and lines of a figure so that nothing covers anything else."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

# Distances of label boxes from their points, in typographic points, and directions, none of them along an error bar.
_RADII = np.array([5, 8, 11, 16, 22, 30, 38, 48, 60, 72, 92, 120, 150])
_ANGLES = np.deg2rad(np.arange(11.25, 360, 22.5))
_GAP = 2.0  # around a label
_LEADER = 15.0  # a label further off than this gets a line to its point
_MARKER = 4.0  # half the width of one

_Array = np.ndarray


class Label(NamedTuple):
    """A text for one of some points, ``[points, 2]`` in data units: whichever leaves most room."""

    text: str
    points: _Array
    colour: str
    bold: bool = False


class _Page(NamedTuple):
    """What a label must not cover (boxes: left, bottom, right, top), had better not cover, and must not leave."""

    boxes: _Array
    ink: _Array
    frame: _Array


def add_labels(ax: Axes, labels: Sequence[Label], markers: _Array, bars: _Array, curves: Sequence[_Array]) -> None:
    """Add labels where there is room, close to their points; the first ones choose first.

    Args:
      ax: axes whose limits and place in the figure are final.
      labels: the labels.
      markers: what must stay visible: ``[markers, 2]``, in data units.
      bars: what must stay visible: ``[bars, 4]``, left, bottom, right and top in data units.
      curves: what had better stay visible: ``[points, 2]`` along lines, in data units.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    renderer, unit = FigureCanvasAgg(figure).get_renderer(), figure.dpi / 72
    to_pixels, to_data = ax.transData.transform, ax.transData.inverted().transform
    boxes = [_box(to_pixels(markers), _MARKER * unit)] if len(markers) else []
    boxes += [np.hstack([to_pixels(bars[:, :2]) - 1, to_pixels(bars[:, 2:]) + 1])] if len(bars) else []
    ink = np.concatenate([np.empty((0, 2)), *(_dense(to_pixels(curve)) for curve in curves if len(curve))])
    frame = np.array(ax.get_window_extent(renderer).extents)
    for label in labels:
        text = ax.text(0, 0, label.text, color=label.colour, ha="center", va="center", zorder=7)
        text.set_fontweight("bold" if label.bold else "normal")
        half = np.array(text.get_window_extent(renderer).size) / 2 + _GAP * unit
        page = _Page(np.concatenate([np.empty((0, 4)), *boxes]), ink, frame)
        centre, point = _place(to_pixels(label.points), half, unit, page)
        text.set_position(tuple(to_data(centre)))
        boxes.append(_box(centre[None], half))
        nearest = np.clip(point, centre - half, centre + half)
        if np.hypot(*(nearest - point)) > _LEADER * unit:
            ink = np.concatenate([ink, _dense(np.stack([point, nearest]))])
            ax.plot(*to_data([point, nearest]).T, color=label.colour, lw=0.6, alpha=0.7, zorder=2)


def _place(points: _Array, half: _Array, unit: float, page: _Page) -> tuple[_Array, _Array]:
    """The best centre for a box of this half size, and the point that it is for."""
    index, radii, angles = (
        grid.ravel() for grid in np.meshgrid(np.arange(len(points)), _RADII * unit, _ANGLES, indexing="ij")
    )
    origins, way = points[index], np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # Up to a whole half width to the side, or half height up or down: so far the box touches a circle about the point.
    centres = origins + way * radii[:, None] + np.clip(1.5 * way, -1, 1) * half
    low, high = centres - half, centres + half
    shared = np.minimum(high[:, None], page.boxes[:, 2:]) - np.maximum(low[:, None], page.boxes[:, :2])
    covering = np.any(np.all(shared > 0, axis=2), axis=1)
    outside = np.any((low < page.frame[:2]) | (high > page.frame[2:]), axis=1)
    inked = np.any(np.all((page.ink > low[:, None]) & (page.ink < high[:, None]), axis=2), axis=1)
    leaders = origins[:, None] + np.linspace(0.2, 1, 9)[:, None] * (np.clip(origins, low, high) - origins)[:, None]
    far = np.hypot(*np.moveaxis(leaders - origins[:, None], 2, 0)) > 2 * _MARKER * unit
    crossed = np.all((leaders[:, :, None] > page.boxes[:, :2]) & (leaders[:, :, None] < page.boxes[:, 2:]), axis=3)
    cost = radii / unit + 1e6 * (covering | outside) + 70 * inked + 8 * (crossed & far[:, :, None]).sum(axis=(1, 2))
    best = int(np.argmin(cost))
    return centres[best], origins[best]


def _box(centres: _Array, half: float | _Array) -> _Array:
    return np.hstack([centres - half, centres + half])


def _dense(curve: _Array) -> _Array:
    """Points along a line, no more than three pixels apart."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(curve, axis=0).T))])
    at = np.linspace(0, length[-1], 2 + int(length[-1] / 3))
    return np.stack([np.interp(at, length, column) for column in curve.T], axis=1)
