r"""Purify images: save what a purification defense makes of them, losslessly.

python -m experiments.purify_images --purifier=jpeg --images=PHOTOGRAPHS --out=out/jpeg
python -m experiments.purify_images --purifier=median_blur:size=5,unsharp --images=PHOTOGRAPHS --out=out/sharp
python -m experiments.purify_images --purifier=gaussian_blur:preset=2 --images=PHOTOGRAPHS --out=out/blurred

Several purifiers, separated by commas, are applied one after the other. Writes rows.csv (one row per image) and
purified/*.png, rounded to the nearest 8-bit level. Random purifiers draw by the seed and the name of the image. Run
again, it continues where it was.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from experiments import batch_sizes, cli, ledger, loading, pipeline, processes, records
from experiments.catalog import PURIFIERS
from experiments.matrix import spelled
from nriqa_jax.defenses.purifier import compose
from nriqa_jax.image import from_uint8, to_uint8
from nriqa_jax.metrics import fidelity
from nriqa_jax.parallel import Replicas, call
from nriqa_jax.resize import resize_torch
from nriqa_jax.types import Keys, Purifier

COLUMNS = ("image", "status", "error", "height", "width", "purified_height", "purified_width", "psnr", "ssim")
_BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of a purification."""

    purifier: str = cli.flag(
        cli.REQUIRED, f"NAME, NAME:preset=0..4 or NAME:SETTING=VALUE of {', '.join(PURIFIERS)}; several are a chain."
    )
    images: str = cli.flag(cli.REQUIRED, "Folder of images (with its sub-folders), or one image file.")
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    batch_size: int = cli.flag(_BATCH_SIZE, "Largest number of images computed together on a device.")
    seed: int = cli.flag(0, "Seed of random purifiers.")


def run(config: Config) -> ledger.Table:
    """Purify images into ``config.out``; returns the table ``rows.csv``."""
    if config.batch_size < 1:
        raise cli.UserError(f"--batch_size={config.batch_size} must be at least 1")
    purifier, out = _purifier(config.purifier), Path(config.out)
    images = pipeline.survey(Path(config.images), out, 1)
    ledger.open_run(out, pipeline.run_config("purify_images", config, images, ledger.provenance("none")))
    table = ledger.Table(out / "rows.csv", COLUMNS)
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)
    sizes = batch_sizes.BatchSizes(out / "batch_sizes.json", batch_sizes.fixed(config.batch_size))
    replicas, files = Replicas(purifier, cli.devices(config)), ledger.adversarial_names(images.names)

    def work(batch: loading.Batch) -> pipeline.Cells:
        numbers = batch.send(replicas, pipeline.image_numbers(batch.names))
        keys = pipeline.image_keys(jax.random.key(config.seed), numbers)
        found = batch.fetch(call(_purified, replicas.on(batch.devices), batch.rows, keys))
        _save([out / "purified" / files[name] for name in batch.names], found.pop("pixels"))
        return [{name: {key: values[row] for key, values in found.items()} for row, name in enumerate(batch.names)}]

    pipeline.Rows(images, [table, timings], sizes, replicas, out).fill(work)
    return table


def _purifier(text: str) -> Purifier:
    """The purifier, or the chain of them, that is meant."""
    stages: list[Any] = [spelled.purifier(one, "purifier") for one in spelled.read("purifier", text, PURIFIERS)]
    return stages[0] if len(stages) == 1 else compose(*stages)


def _purified(purifier: Purifier, pixels: Array, keys: Keys) -> Mapping[str, Any]:
    """The 8-bit levels, and how they differ from the images, in the size of these."""
    images = from_uint8(pixels)
    levels = to_uint8(purifier(images, keys))
    height, width = levels.shape[1:3]
    same = levels.shape == pixels.shape
    restored = from_uint8(levels) if same else resize_torch(from_uint8(levels), *pixels.shape[1:3], antialias=True)
    small = min(pixels.shape[1:3]) < fidelity.SSIM_WINDOW
    return {
        "pixels": levels,
        "purified_height": jnp.full(len(images), height),
        "purified_width": jnp.full(len(images), width),
        "psnr": fidelity.psnr(images, restored),
        "ssim": jnp.full(len(images), jnp.nan) if small else fidelity.ssim(images, restored),
    }


def _save(paths: Sequence[Path], pixels: UInt8[np.ndarray, "images height width 3"]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(records.save_png, paths, pixels))


def main(config: Config) -> int:
    """Purify, and say how it went."""
    table = run(config)
    psnr = table.numbers("psnr")
    if processes.is_first():
        mean = f", mean PSNR {np.mean(psnr):.2f} dB" if len(psnr) else ""
        print(f"{len(psnr)} of {len(table.rows)} images purified{mean}; see {config.out}/purified")
    return pipeline.exit_code(table)


if __name__ == "__main__":
    cli.run(Config, main)
