"""Labelled sets made from pristine photographs: 25 kinds of distortion at five levels, labelled by MS-SSIM.

A set is a folder of PNG files and ``meta_info.csv``, written photograph by photograph; what an interrupted run left is
continued. The names of images follow KADID-10k: ``cat_03_05.png`` is ``cat`` under the third kind at the fifth level.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from jaxtyping import UInt8
from numpy import ndarray

from experiments.distortions import Distortion, labelled_set
from experiments.ledger import Table
from experiments.progress import Progress
from experiments.records import save_png

TABLE = "meta_info.csv"
MIN_SIDE = 161  # of MS-SSIM

Photograph = Callable[[], UInt8[ndarray, "height width 3"]]


def write_set(folder: Path, photographs: Mapping[str, Photograph], distortions: Mapping[str, Distortion]) -> Path:
    """Write a set, or what is missing of it; returns its table.

    Args:
      folder: where to.
      photographs: functions that load them, by name.
      distortions: kinds, whose names start with their numbers.
    """
    table = Table(folder / TABLE, ("image", "mos", "ref_name"))
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(len(photographs))
    for name, load in photographs.items():
        if f"{name}.png" not in table.rows:
            rows = []
            for copy, (pixels, label) in labelled_set({name: load()}, distortions).items():
                image = _file_name(name, copy.removeprefix(f"{name}_"))
                save_png(folder / image, pixels)
                rows.append({"image": image, "mos": round(label, 4), "ref_name": f"{name}.png"})
            table.add(rows)
        progress.advance(1)
    progress.close()
    return table.path


def _file_name(photograph: str, copy: str) -> str:
    """Name of a copy such as ``03_motion_blur5``."""
    return f"{photograph}.png" if copy == "pristine" else f"{photograph}_{copy[:2]}_{int(copy[-1]):02}.png"
