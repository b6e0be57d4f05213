"""Run folders as benchmark leaves them, small and synthetic: tables by its own formulas, of given scores."""

import json

import numpy as np
from PIL import Image

from experiments import ledger
from experiments.matrix import cells
from experiments.pages.matrix_files import STRIP_COLUMNS, Cell
from nriqa_jax.metrics import defense

LOW, HIGH = 0.0, 200.0
IMAGES = ("a.png", "b.png", "<i>c&.png", "d.png")
CLEAR = np.array([20.0, 60.0, 100.0, 120.0])
GAIN = 60.0  # of attacks without a purifier
FLIP, JPEG, HOSTILE, KEEP = "flip", "jpeg:preset=2", "<b>'\"&$x$", "identity"
LEFT = {  # of the change of scores: behind each purifier, by attacks that do not know it, and by those that do
    FLIP: (6.0, 60.0),
    JPEG: (12.0, 18.0),
    HOSTILE: (48.0, 54.0),
    KEEP: (60.0, 60.0),
}
SSIM = {FLIP: 0.4, JPEG: 0.9, HOSTILE: 0.8, KEEP: 1.0}
ATTACKS = ("fgsm", "ifgsm:epsilon=8/255")


def benchmark_run(folder, *, adaptive=ATTACKS, with_mos=False, left=LEFT, attacks=ATTACKS):
    """A folder of benchmark.

    Args:
      folder: where to make it.
      adaptive: attacks that were computed through the purifiers, too.
      with_mos: whether there are subjective scores.
      left: what each purifier leaves, as `LEFT`.
      attacks: all attacks; the second one without a pair in ``adaptive`` is twice as strong.
    """
    rows, strips = [], []
    scores = cells.scores_of(LOW, HIGH)
    head = cells.columns_of(scores)
    for attack in attacks:
        for purifier, changes in left.items():
            for knows in (False, True)[: 1 + (attack in adaptive)]:
                cell = Cell("tinyiqa", attack, purifier, knows, "end to end" if knows else "", {})
                columns = _columns(purifier, changes, knows, with_mos, 1 if attack in adaptive or not adaptive else 2)
                _write(folder / cell.table, columns)
                known = {name: values for name, values in columns.items() if not np.isnan(values).all()}
                numbers = defense.evaluate(scores, known)
                numbers |= dict(zip(cells.HEAD, (*cell[:3], int(knows), cell.differentiated, len(IMAGES))))
                rows.append([numbers.get(name) for name in head])
    for purifier in left:
        for knows in (False, True)[: 1 + bool(adaptive)]:
            strips.append(_strip(folder, attacks[0], purifier, knows))
    ledger.write_rows(folder / "cells.csv", head, rows)
    ledger.write_rows(folder / "strips.csv", STRIP_COLUMNS, strips)
    ledger.write_rows(folder / "times.csv", ("purifier", "mean_time"), [(name, 0.25) for name in left])
    for name in IMAGES:
        _picture(folder / "images" / name, 100)
    model = {"name": "TinyIQA", "score_range": [LOW, HIGH]}
    config = {"script": "benchmark", "flags": {"models": "tinyiqa:embedded", "objective": "raise_quality", "seed": 0}}
    config |= {"images_root": str(folder / "images"), "models": {"tinyiqa": model}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _columns(purifier, changes, knows, with_mos, strength):
    """The columns of a cell; changes of images differ, and average to what is left."""
    spread = np.array([0.5, 1.5, 0.75, 1.25])
    columns = {"clear": CLEAR, "attacked": CLEAR + strength * GAIN, "defended_clear": CLEAR + 2.0}
    columns |= {"attacked_unaware": columns["attacked"], "defended_unaware": CLEAR + 2.0 + changes[0] * spread}
    columns["defended_attacked"] = CLEAR + 2.0 + strength * changes[knows] * spread
    columns["mos"] = CLEAR if with_mos else np.full(len(IMAGES), np.nan)
    similarities = {"psnr": np.inf if SSIM[purifier] == 1 else 30.0, "ssim": SSIM[purifier]}
    for name in cells.SIMILAR:  # images are too small for MS-SSIM
        columns[name] = np.full(len(IMAGES), similarities.get(name.split("_")[0], np.nan))
    return columns


def _write(path, columns):
    lines = zip(IMAGES, *(columns[name] for name in cells.PER_IMAGE[1:]))
    ledger.write_rows(path, cells.PER_IMAGE, lines)


def _strip(folder, attack, purifier, knows):
    names = [f"attacked/{ledger.folder_name(purifier)}_{int(knows)}_{kind}.png" for kind in ("whole", "behind")]
    for name, level in zip(names, (104, 60)):
        _picture(folder / name, level)
    return ("tinyiqa", attack, purifier, int(knows), IMAGES[0], *names)


def _picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 24), (level,) * 3).save(path)
