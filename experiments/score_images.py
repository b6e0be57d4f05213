r"""Score images with a quality model.

python -m experiments.score_images --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/scores

Writes scores.csv: one row per image, in order of name. Run again, it continues where it was.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from experiments import cli, ledger, loading, pipeline, processes, settings, summary
from experiments.batch_sizes import BatchSizes
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import Replicas, call
from nriqa_jax.types import ScoreFn, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Common):
    """Settings of a scoring run."""


def run(config: Config) -> ledger.Table:
    """Score images into ``config.out``; returns the table ``scores.csv``."""
    model, scorers, details = settings.load_model(config)
    out = Path(config.out)
    images = pipeline.survey(Path(config.images), out, model.preprocess.min_side)
    ledger.open_run(out, pipeline.run_config("score_images", config, images, details))
    replicas, sizes = settings.replicas(config, scorers), settings.sizes_of_batches(config, scorers, images)
    table = score_set(images, replicas, sizes, out)
    if processes.is_first():
        ledger.write_summary(out, [table], lambda: summary.of_scores(table))
    return table


def score_set(images: loading.ImageSet, replicas: Replicas, sizes: BatchSizes, out: Path) -> ledger.Table:
    """Score the images that ``out/scores.csv`` lacks; ``replicas`` are of `settings.Scorers`."""
    table = ledger.Table(out / "scores.csv", ledger.SCORE_COLUMNS)
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)

    def work(batch: loading.Batch) -> pipeline.Cells:
        scores = batch.fetch(call(score_pixels, replicas.on(batch.devices).score, batch.rows))
        return [{name: {"score": score} for name, score in zip(batch.names, scores)}]

    pipeline.Rows(images, [table, timings], sizes, replicas, out).fill(work)
    return table


def score_pixels(score_fn: ScoreFn, pixels: jax.Array) -> Scores:
    """Scores of 8-bit images."""
    return score_fn(from_uint8(pixels))


def main(config: Config) -> int:
    """Score, and say how it went."""
    table = run(config)
    scores = table.numbers("score")
    mean = f", mean score {np.mean(scores):.4f}" if len(scores) else ""
    if processes.is_first():
        print(f"{len(scores)} of {len(table.rows)} images scored{mean}; see {config.out}/scores.csv")
    return pipeline.exit_code(table)


if __name__ == "__main__":
    cli.run(Config, main)
