r"""Score images with a quality model.

python -m experiments.score_images --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS --out=out/scores

Writes scores.csv: one row per image, in order of name. Run again, it continues where it was.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cli, ledger, pipeline, settings, summary
from nriqa_jax.image import from_uint8
from nriqa_jax.parallel import call_padded, run_score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Common):
    """Settings of a scoring run."""


def run(config: Config) -> ledger.Table:
    """Score images into ``config.out``; returns the table ``scores.csv``."""
    model, score_fn, description = settings.load_model(config)
    out = Path(config.out)
    images = pipeline.survey(Path(config.images), out, model.preprocess.min_side)
    ledger.open_run(out, pipeline.run_config("score_images", config, images, description))
    table = ledger.Table(out / "scores.csv", ledger.SCORE_COLUMNS)
    timings = ledger.Table(out / "timings.csv", pipeline.TIMING_COLUMNS)

    def work(names: Sequence[str], pixels: pipeline.Pixels, size: int) -> Sequence[Mapping[str, Mapping[str, Any]]]:
        scores = call_padded(lambda pixels: run_score(score_fn, from_uint8(pixels)), size, pixels)
        return [{name: {"score": score} for name, score in zip(names, scores)}]

    pipeline.run_rows(images, config.batch_size, [table, timings], work)
    ledger.write_summary(out, [table], lambda: summary.of_scores(table))
    return table


def main(config: Config) -> int:
    """Score, and say how it went."""
    table = run(config)
    scores = table.numbers("score")
    mean = f", mean score {np.mean(scores):.4f}" if len(scores) else ""
    print(f"{len(scores)} of {len(table.rows)} images scored{mean}; see {config.out}/scores.csv")
    return pipeline.exit_code(table)


if __name__ == "__main__":
    cli.run(Config, main)
