"""Tables of cells in the format of the MSU defense benchmark (msu-video-group/adversarial-defenses-for-iqa)."""

from pathlib import Path

import numpy as np

from experiments import ledger
from experiments.matrix.cells import Table
from experiments.matrix.purification import MEASURES

# Their names of the columns, and ours; the first column, without a name, counts the rows.
_SCORES = {
    "clear": "clear",
    "attacked": "attacked",
    "defended-clear": "defended_clear",
    "defended-attacked": "defended_attacked",
    "mos": "mos",
}
_PAIRS = {
    "clear_defended-clear": "clear_defended_clear",
    "clear_attacked": "clear_attacked",
    "clear_defended-attacked": "clear_defended",
    "attacked_defended-attacked": "attacked_defended",
    "defended-clear_defended-attacked": "defended_defended",
}


_MEASURES = ("ssim", "mse", "psnr", "l_inf", "mae")


def write_msu(path: Path, found: Table) -> None:
    """Write the table of a cell; a column of which nothing is known, such as MOS, is left out, as it is there."""
    columns = {theirs: found.columns[ours] for theirs, ours in _SCORES.items()}
    for theirs, ours in _PAIRS.items():
        own = {measure: found.columns[f"{measure}_{ours}"] for measure in MEASURES}
        own["mse"] = 10.0 ** (-own["psnr"] / 10.0)
        columns |= {f"{measure}_{theirs}": own[measure] for measure in _MEASURES}
    known = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    rows = ([i, image, *(_text(values[i]) for values in known.values())] for i, image in enumerate(found.images))
    ledger.write_rows(path, ["", "image_name", *known], rows)


def _text(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))
