"""Pictures of a benchmark: behind each purifier, what the strongest attack on it made of one image.

They are the few purified images that a run keeps, so that pages can show them without computing anything.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments import ledger, pipeline, records
from experiments.matrix import cells
from experiments.matrix.plan import Cell, Matrix
from experiments.matrix.purification import defender_keys
from experiments.matrix.sets import Sets
from experiments.matrix.spelled import Spelled
from experiments.pages.matrix_files import STRIP_COLUMNS, STRIPS
from nriqa_jax.image import from_uint8, to_uint8
from nriqa_jax.parallel import call


def write_strips(sets: Sets, matrix: Matrix, gains: Mapping[Cell, float]) -> None:
    """Write ``strips.csv`` and the pictures that it names.

    Of each purifier it has the image that the strongest attack on it, one that knows it if there are such, moves
    furthest; and the same image as the same attack leaves it without knowing the purifier.

    Args:
      sets: the sets, computed.
      matrix: what was crossed.
      gains: gain left behind the purifier, of every cell.
    """
    lines = []
    for purifier in matrix.purifiers:
        strongest = _strongest(gains, purifier)
        image = _furthest(cells.table(sets, strongest, matrix, None))
        for cell in dict.fromkeys((strongest._replace(adaptive=False), strongest)):
            if image is not None:
                names = (cell.model, cell.attack.text, purifier.text, int(cell.adaptive), image)
                # Those of a set of attacked images lie beside the run.
                pictures = (Path(os.path.relpath(path, sets.out)) for path in _pictures(sets, cell, image))
                lines.append((*names, *(path.as_posix() for path in pictures)))
    ledger.write_rows(sets.out / STRIPS, STRIP_COLUMNS, lines)


def _strongest(gains: Mapping[Cell, float], purifier: Spelled) -> Cell:
    own = {cell: gain for cell, gain in gains.items() if cell.purifier == purifier}
    known = {cell: gain for cell, gain in own.items() if cell.adaptive} or own
    return max(known, key=lambda cell: -math.inf if math.isnan(known[cell]) else known[cell])


def _furthest(table: cells.Table) -> str | None:
    """The image whose score the attack moves furthest behind the purifier; None where there is no image."""
    change = np.abs(table.columns["defended_attacked"] - table.columns["defended_clear"])
    return table.images[int(np.argmax(np.nan_to_num(change)))] if table.images else None


def _pictures(sets: Sets, cell: Cell, image: str) -> tuple[Path, Path]:
    """The attacked image, and what the purifier makes of it."""
    attacked, purified = sets.files(cell.source)[image], sets.pictures(cell.source, cell.purifier)[image]
    if not purified.exists():
        pixels = from_uint8(jnp.asarray(records.load_image(attacked)[None]))
        keys = defender_keys(sets.machine.seed, jnp.asarray(pipeline.image_numbers([image])))
        records.save_png(purified, np.asarray(to_uint8(call(sets.purifiers[cell.purifier], pixels, keys)))[0])
    return attacked, purified
