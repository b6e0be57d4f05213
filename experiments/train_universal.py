r"""Learn a universal perturbation: one pattern that moves the scores of all images, for --attack=universal.

python -m experiments.train_universal --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS \
    --method=optimised --out=out/pattern.safetensors

Writes a .npy or .safetensors file. Each epoch cuts every image once at random; smaller images are mirrored up to the
size of the cut. "generative" trains a U-Net of 54 million weights that draws the pattern.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments import cli, loading, patterns, pipeline, settings
from experiments.catalog import OBJECTIVES
from nriqa_jax.attacks import unet, universal_training
from nriqa_jax.attacks.objectives import per_range
from nriqa_jax.attacks.universal_training import Training
from nriqa_jax.types import Images

NETWORK = unet.UNet()

# A pattern cannot know the clean score of an image, nor one target for all.
DIRECTIONS = ("raise_quality", "lower_quality", "raise_score", "lower_score")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Common):
    """Settings of a training run."""

    out: str = cli.flag(cli.REQUIRED, "Pattern to write (.npy or .safetensors).")
    method: str = cli.flag("optimised", "How the pattern is learnt.", ("optimised", "cumulative", "generative"))
    objective: str = cli.flag("raise_quality", "What to do to scores.", DIRECTIONS)
    epochs: int = cli.flag(5, "Passes over the images.")
    batch_size: int = cli.flag(8, "Crops per step.")
    crop: int = cli.flag(256, "Side of the square crops and of the pattern, in pixels.")


def run(config: Config) -> Float[np.ndarray, " epochs"]:
    """Learn a pattern, write it, and return the mean objective of each epoch, in units of the score range."""
    patterns.check_name(Path(config.out), "--out")
    for name in ("epochs", "batch_size", "crop"):
        if getattr(config, name) < 1:
            raise cli.UserError(f"--{name}={getattr(config, name)} must be at least 1")
    model, scorers, details = settings.load_model(config)
    if config.crop < model.preprocess.min_side:
        raise cli.UserError(f"--crop={config.crop}: this model needs at least {model.preprocess.min_side} pixels")
    images = pipeline.survey(Path(config.images), Path(config.out), 1)
    if not images.sizes:
        raise cli.UserError(f"--images={config.images}: none of its {len(images.names)} images can be read")
    training_key, key = jax.random.split(jax.random.key(config.seed))
    training = METHODS[config.method](config.crop, training_key)
    objective = per_range(OBJECTIVES[config.objective](model, jnp.zeros(0), None), *model.score_range)
    state, means = universal_training.start_training(training, key), []
    for epoch in range(config.epochs):
        batches = crops(images, config, np.random.default_rng((config.seed, epoch)))
        state, losses = universal_training.train(training, scorers.score, objective, state, batches)
        means.append(np.mean(losses))
        print(f"epoch {epoch + 1}: mean objective {means[-1]:.4f}", flush=True)
    pattern = np.asarray(universal_training.pattern_of(training, state.params))
    patterns.save_pattern(Path(config.out), pattern, training_record(config, details))
    return np.array(means)


def training_record(config: Config, details: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a pattern say of its training."""
    flags = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("images", "out")}
    return {"script": "train_universal", "flags": flags, **details}


def crops(images: loading.ImageSet, config: Config, rng: np.random.Generator) -> Iterator[Images]:
    """One epoch: batches of random crops of all images, in random order."""
    names = np.array(list(images.sizes))[rng.permutation(len(images.sizes))].tolist()
    places = rng.random((len(names), 2))

    def cut(name: str, place: Float[np.ndarray, " 2"]) -> UInt8[np.ndarray, "side side 3"] | None:
        pixels = loading.decode(images, name)
        return cut_at(pixels, place, config.crop) if isinstance(pixels, np.ndarray) else None

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), config.batch_size):
            end = start + config.batch_size
            found = [pixels for pixels in pool.map(cut, names[start:end], places[start:end]) if pixels is not None]
            if found:
                yield jnp.asarray(np.stack(found), jnp.float32) / 255.0


def cut_at(
    pixels: UInt8[np.ndarray, "height width 3"], place: Float[np.ndarray, " 2"], side: int
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """A square crop; images that are smaller are mirrored at their right and lower border first.

    Args:
      pixels: the image.
      place: of the corner, as shares in [0, 1) of the rows and columns where it may be.
      side: of the crop.
    """
    missing = [(0, max(side - length, 0)) for length in pixels.shape[:2]]
    pixels = np.pad(pixels, (*missing, (0, 0)), "reflect")
    y, x = (int(share * (length - side + 1)) for share, length in zip(place, pixels.shape[:2]))
    return pixels[y : y + side, x : x + side]


def _generative(side: int, key: Array) -> Training:
    if side % (multiple := 2 ** len(NETWORK.widths)):
        raise cli.UserError(f"--crop={side} must be a multiple of {multiple} for --method=generative")
    weights, noise = jax.random.split(key)
    inputs = jax.random.uniform(noise, (1, side, side, 3))
    return universal_training.generative(unet.apply_of(NETWORK), unet.init(NETWORK, weights), inputs)


METHODS: Mapping[str, Callable[[int, Array], Training]] = {
    "optimised": lambda side, key: universal_training.optimised(side, side),
    "cumulative": lambda side, key: universal_training.cumulative(side, side),
    "generative": _generative,
}


def main(config: Config) -> int:
    """Learn a pattern, and say how it went."""
    means = run(config)
    print(f"mean objective {means[0]:.4f} -> {means[-1]:.4f} score ranges; wrote {config.out}")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
