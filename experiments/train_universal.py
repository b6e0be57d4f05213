r"""Learn a universal perturbation: what moves the scores of all images at the cost of one pass.

python -m experiments.train_universal --model=tinyiqa --weights=embedded --images=PHOTOGRAPHS \
    --method=optimised --out=out/pattern.safetensors

Three methods learn one pattern for all images, for --attack=universal --pattern=FILE: "optimised" (Adam on its
values), "cumulative" (their raw gradients) and "generative" (a U-Net of 54 million weights that draws it from noise).
"facpa" trains such a U-Net to draw a change from each image, for --attack=facpa --network=FILE.

Each epoch cuts every image once at random; smaller images are mirrored up to the size of the cut.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments import cli, loading, networks, patterns, pipeline, settings
from experiments.catalog import OBJECTIVES
from experiments.cutting import cut_at
from nriqa_jax.attacks import unet, universal_training
from nriqa_jax.attacks.objectives import per_range
from nriqa_jax.attacks.universal_training import Params, Training
from nriqa_jax.types import Images

NETWORK = unet.UNet()

# A pattern cannot know the clean score of an image, nor one target for all.
DIRECTIONS = ("raise_quality", "lower_quality", "raise_score", "lower_score")


class Method(NamedTuple):
    """A way to learn changes.

    Attributes:
      start: ``(side, key) -> training``, of square crops.
      save: ``(file, training, parameters, record)``, writes what was learnt.
      extensions: what names of such files end with.
    """

    start: Callable[[int, Array], Training]
    save: Callable[[Path, Training, Params, Mapping[str, Any]], None]
    extensions: tuple[str, ...] = patterns.EXTENSIONS


def _save_pattern(path: Path, training: Training, params: Params, record: Mapping[str, Any]) -> None:
    patterns.save_pattern(path, np.asarray(universal_training.pattern_of(training, params)), record)


def _save_network(path: Path, training: Training, params: Params, record: Mapping[str, Any]) -> None:
    del training
    networks.save_network(path, NETWORK, params, record)


def _generative(side: int, key: Array) -> Training:
    weights, noise = jax.random.split(key)
    inputs = jax.random.uniform(noise, (1, side, side, 3))
    return universal_training.generative(unet.apply_of(NETWORK), _fitting_weights(side, weights), inputs)


def _facpa(side: int, key: Array) -> Training:
    return universal_training.image_conditioned(unet.apply_of(NETWORK), _fitting_weights(side, key))


def _fitting_weights(side: int, key: Array) -> Params:
    if side % unet.multiple(NETWORK):
        raise cli.UserError(f"--crop={side} must be a multiple of {unet.multiple(NETWORK)} for networks")
    return unet.init(NETWORK, key)


METHODS: Mapping[str, Method] = {
    "optimised": Method(lambda side, key: universal_training.optimised(side, side), _save_pattern),
    "cumulative": Method(lambda side, key: universal_training.cumulative(side, side), _save_pattern),
    "generative": Method(_generative, _save_pattern),
    "facpa": Method(_facpa, _save_network, networks.EXTENSIONS),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Common):
    """Settings of a training run."""

    out: str = cli.flag(cli.REQUIRED, "Pattern to write (.npy or .safetensors), or network (.safetensors).")
    method: str = cli.flag("optimised", "What is learnt, and how.", METHODS)
    objective: str = cli.flag("raise_quality", "What to do to scores.", DIRECTIONS)
    epochs: int = cli.flag(5, "Passes over the images.")
    batch_size: int = cli.flag(8, "Crops per step.")
    crop: int = cli.flag(256, "Side of the square crops and of the pattern, in pixels; networks take multiples of 256.")


def run(config: Config) -> Float[np.ndarray, " epochs"]:
    """Learn and write a pattern or a network; returns the mean objective of each epoch, in units of the score range."""
    method = METHODS[config.method]
    patterns.check_name(Path(config.out), "--out", method.extensions)
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
    training = method.start(config.crop, training_key)
    objective = per_range(OBJECTIVES[config.objective](model, jnp.zeros(0), None), *model.score_range)
    state, means = universal_training.start_training(training, key), []
    for epoch in range(config.epochs):
        batches = crops(images, config, np.random.default_rng((config.seed, epoch)))
        state, losses = universal_training.train(training, scorers.score, objective, state, batches)
        means.append(np.mean(losses))
        print(f"epoch {epoch + 1}: mean objective {means[-1]:.4f}", flush=True)
    method.save(Path(config.out), training, state.params, training_record(config, details))
    return np.array(means)


def training_record(config: Config, details: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a file say of its training."""
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


def main(config: Config) -> int:
    """Learn a pattern or a network, and say how it went."""
    means = run(config)
    print(f"mean objective {means[0]:.4f} -> {means[-1]:.4f} score ranges; wrote {config.out}")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
