r"""Measure the throughput of scoring and of one attack step, with random weights, as JSON lines.

python -m experiments.bench_speed --models=tinyiqa,cnniqa --batch_sizes=1,16 --side=299

Each line gives the median and the spread over repeats after one warm-up call. About a minute on two CPU cores.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments import cli
from experiments.catalog import MODELS
from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.attacks.presets import fgsm
from nriqa_jax.parallel import run_attack, run_score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a measurement."""

    models: str = cli.flag("tinyiqa,cnniqa", "Models, separated by commas.")
    batch_sizes: str = cli.flag("1,16", "Batch sizes, separated by commas.")
    side: int = cli.flag(299, "Height and width of the images.")
    repeats: int = cli.flag(5, "Timed calls.")


def run(config: Config) -> Iterator[dict[str, Any]]:
    """Yield one measurement per model, batch size and task.

    Raises:
      cli.UserError: for a model that does not exist and for numbers that make no sense.
    """
    if config.repeats < 1:
        raise cli.UserError(f"--repeats={config.repeats} must be at least 1")
    for name in config.models.split(","):
        if name not in MODELS:
            raise cli.UserError(f"--models: there is no model '{name}'; there are: {', '.join(MODELS)}")
        model = MODELS[name]()
        score_fn = model.score_fn(model.init(jax.random.key(0)))
        for batch_size in _sizes(config.batch_sizes):
            images = jax.random.uniform(jax.random.key(1), (batch_size, config.side, config.side, 3))
            keys = jax.random.split(jax.random.key(2), batch_size)
            tasks: dict[str, Callable[[], Any]] = {
                "score": partial(run_score, score_fn, images),
                "fgsm": partial(run_attack, fgsm(raise_score()), score_fn, images, keys),
            }
            for task, call in tasks.items():
                seconds = timed(call, config.repeats)
                median = float(np.median(seconds))
                yield {
                    "model": name,
                    "task": task,
                    "batch": batch_size,
                    "side": config.side,
                    "device": jax.default_backend(),
                    "images_per_second": round(batch_size / median, 3),
                    "seconds": round(median, 5),
                    "spread": round(float(np.ptp(seconds)) / median, 3),
                }


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise cli.UserError(f"--batch_sizes={text} is not a list of numbers; give one like 1,16") from error
    if min(sizes) < 1:
        raise cli.UserError(f"--batch_sizes={text} holds a size below 1")
    return sizes


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each of ``repeats`` calls, after one that compiles."""
    jax.block_until_ready(call())
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - started)
    return seconds


def main(config: Config) -> int:
    """Print measurements as they come."""
    for measurement in run(config):
        print(json.dumps(measurement), flush=True)
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
