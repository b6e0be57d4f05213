"""What the tests know of every converted model: its PyTorch graph, a narrow copy of both, and published counts."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from experiments.contenders.weights import draw_all
from nriqa_jax.models.dbcnn import dbcnn, dbcnn_sma
from nriqa_jax.models.hyperiqa import hyperiqa
from nriqa_jax.models.linearity import linearity, linearity_resnet18, linearity_resnet34, linearity_resnet50
from nriqa_jax.models.liqe import liqe, liqe_mix
from nriqa_jax.models.maniqa import maniqa, maniqa_pipal
from nriqa_jax.models.metaiqa import metaiqa
from nriqa_jax.models.model import Model
from nriqa_jax.models.resnet import Bottleneck, ResNet, resnet18, resnet34, resnet50
from nriqa_jax.models.spaq import spaq_bl, spaq_mta, spaq_mte, spaq_mts
from weights_convert import torch_graphs


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
      build: the model.
      parameters: trained numbers, as published.
      entries: tensors of a state dict, batch counters included.
      sides: heights and widths of views: the native size, and an odd one where the network takes any.
      narrow: attributes of the network, under which it is small enough for golden files.
      narrow_graph: the same for the graph, where they are others.
      narrow_sides: sizes of views for the narrow network; by default ``sides``.
      extra: entries of a file that are beside the state dict.
    """

    build: Callable[[], Model]
    parameters: int
    entries: int
    sides: tuple[tuple[int, int], ...]
    narrow: Mapping[str, Any] | None = None
    narrow_graph: Mapping[str, Any] | None = None
    narrow_sides: tuple[tuple[int, int], ...] | None = None
    extra: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def narrow_model(self) -> Model:
        """The model with a narrow network."""
        model = self.build()
        return dataclasses.replace(model, network=model.network.clone(**self.narrow))

    def make_narrow_graph(self) -> Any:
        """The PyTorch network of `narrow_model`."""
        return self.make_graph(**(self.narrow if self.narrow_graph is None else self.narrow_graph))

    def make_graph(self, **options: Any) -> Any:
        """The PyTorch network; the test is skipped where torch is absent."""
        pytest.importorskip("torch")
        return torch_graphs.build(self.build().name, **options)


_NARROW_CLIP = {
    "features": 8,
    "width": 16,
    "depth": 2,
    "text_width": 8,
    "text_depth": 2,
    "vocabulary": 32,
    "head_width": 4,
}


def _prompts(count: int) -> Callable[[], np.ndarray]:
    """Texts of the token ids 1 to 29, 30 at their start and 31 at their end, some shorter than others."""

    def prompts() -> np.ndarray:
        return np.array([[30, 1 + i, 29 - i, *((31, 0) if i % 2 else (7, 31))] for i in range(count)], np.int32)

    return prompts


_NARROW_MANIQA = {"width": 8, "heads": 2, "hidden": 16, "patch": 28}

# In these widths random scores are positive, as clamped scores must be to have a gradient.
_NARROW_DBCNN = {"width": 4, "scnn_widths": (4, 4, 4, 4, 4, 4, 8, 8, 6)}
_DBCNN = (((224, 224), (161, 203)), _NARROW_DBCNN, _NARROW_DBCNN, ((64, 96), (49, 70)))

_SIDES, _NARROW_SIDES = ((224, 224), (161, 203)), ((64, 96), (49, 70))


def _linearity(
    build: Callable[[], Model], parameters: int, entries: int, trunk: Callable[..., ResNet], options: Mapping[str, Any]
) -> Entry:
    """LinearityIQA with a trunk: its narrow form, and the options that make that of the graph."""
    hidden = {"hidden": (12, 8, 6)}
    narrow, narrow_graph = {"trunk": trunk, **hidden}, {**options, **hidden}
    calibration = draw_all({"k": (3,), "b": (3,)})  # as those of the graph, whose state dict has two entries more
    return Entry(build, parameters, entries + 2, _SIDES, narrow, narrow_graph, _NARROW_SIDES, calibration)


def _spaq(build: Callable[[], Model], parameters: int, entries: int) -> Entry:
    return Entry(build, parameters, entries, _SIDES, {"width": 4}, narrow_sides=_NARROW_SIDES)


_NARROW_RESNEXT = partial(ResNet, partial(Bottleneck, groups=4, group_width=16), (2, 1, 1, 1), 8)
_NARROW_RESNEXT_GRAPH = {"width": 8, "depths": (2, 1, 1, 1), "groups": 4, "group_width": 16}

ZOO: Mapping[str, Entry] = {
    "dbcnn": Entry(dbcnn, 15_311_345, 91, *_DBCNN),
    "dbcnn_sma": Entry(dbcnn_sma, 15_311_345, 91, *_DBCNN),
    "hyperiqa": Entry(
        hyperiqa,
        27_375_369,
        355,
        ((224, 224),),
        narrow={"width": 4, "hyper": (16, 16, 16), "target": (56, 28, 14, 7, 7, 1)},
    ),
    "linearity": _linearity(linearity, 90_453_443, 672, _NARROW_RESNEXT, _NARROW_RESNEXT_GRAPH),
    "linearity_resnet18": _linearity(linearity_resnet18, 12_528_323, 168, partial(resnet18, width=4), {"width": 4}),
    "linearity_resnet34": _linearity(linearity_resnet34, 22_636_483, 264, partial(resnet34, width=4), {"width": 4}),
    "linearity_resnet50": _linearity(linearity_resnet50, 27_219_139, 366, partial(resnet50, width=4), {"width": 4}),
    "liqe": Entry(liqe, 151_277_313, 302, ((224, 224),), narrow={"prompts": _prompts(5), **_NARROW_CLIP}),
    "liqe_mix": Entry(liqe_mix, 151_277_313, 302, ((224, 224),), narrow={"prompts": _prompts(20), **_NARROW_CLIP}),
    "maniqa": Entry(maniqa, 135_747_530, 316, ((224, 224),), narrow=_NARROW_MANIQA),
    "maniqa_pipal": Entry(maniqa_pipal, 135_747_530, 316, ((224, 224),), narrow=_NARROW_MANIQA),
    "metaiqa": Entry(
        metaiqa,
        13_242_923,
        140,
        ((224, 224), (161, 203)),
        narrow={"width": 4, "classes": 20, "hidden": (16, 8)},
        narrow_sides=((64, 64), (49, 70)),
    ),
    "spaq_bl": _spaq(spaq_bl, 23_510_081, 320),
    "spaq_mta": _spaq(spaq_mta, 23_520_326, 320),
    "spaq_mte": _spaq(spaq_mte, 23_510_089, 321),
    "spaq_mts": _spaq(spaq_mts, 47_036_554, 640),
}
NARROW = [name for name, entry in ZOO.items() if entry.narrow is not None]
