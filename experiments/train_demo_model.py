r"""Train TinyIQA, the model with embedded weights, from photographs alone.

python -m experiments.train_demo_model --images=PHOTOGRAPHS --out=nriqa_jax/models/embedded/tinyiqa.safetensors

Twenty-one versions of each photograph (see ``experiments.distortions``), labelled by MS-SSIM, are cut at random and
regressed with AdamW. One photograph in ten is held out; its SROCC is printed after each epoch, and selects nothing.
About 25 minutes for 250 photographs of 299x299 on two CPU cores.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import cli, records
from experiments.distortions import labelled_set
from nriqa_jax.metrics.correlation import srocc
from nriqa_jax.models.model import Variables
from nriqa_jax.models.tinyiqa import tinyiqa
from nriqa_jax.parallel import call
from weights_convert.store import describe, save_variables


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a training run."""

    images: str = cli.flag(cli.REQUIRED, "Folder of pristine photographs of one size.")
    out: str = cli.flag(cli.REQUIRED, "Weights to write (.safetensors).")
    epochs: int = cli.flag(20, "Passes over the data.")
    seed: int = cli.flag(0, "Seed of weights, crops and order.")
    batch_size: int = cli.flag(32, "Crops per step.")
    crop: int = cli.flag(160, "Side of the square crops, in pixels.")
    learning_rate: float = cli.flag(2e-3, "Largest learning rate, after warm-up and before cosine decay.")
    weight_decay: float = cli.flag(1e-4, "Weight decay of AdamW.")
    held_out: int = cli.flag(10, "One photograph in this many is held out.")


def run(config: Config) -> dict[str, float]:
    """Train, write the weights, and return the SROCC on the held-out photographs."""
    names = records.list_images(Path(config.images))
    pristine = {name: records.load_image(Path(config.images) / name) for name in names}
    held_out = labelled_set({name: pristine[name] for name in names[:: config.held_out]})
    training = labelled_set(
        {name: pixels for name, pixels in pristine.items() if name not in names[:: config.held_out]}
    )
    print(f"{len(training)} training images, {len(held_out)} held out", flush=True)
    images, labels = _stack(training)
    variables = train(config, images, labels, lambda variables: evaluate(variables, held_out))
    quality = evaluate(variables, held_out)
    Path(config.out).parent.mkdir(parents=True, exist_ok=True)
    save_variables(config.out, variables, describe(tinyiqa()) | training_record(config, quality))
    return {"held_out_srocc": quality}


def training_record(config: Config, held_out_srocc: float) -> dict[str, str]:
    """What the metadata of the weights say of their training."""
    settings = {name: str(value) for name, value in dataclasses.asdict(config).items() if name not in ("images", "out")}
    return settings | {"held_out_srocc": f"{held_out_srocc:.4f}"}


def train(
    config: Config, images: np.ndarray, labels: np.ndarray, evaluate_now: Callable[[Variables], float]
) -> Variables:
    """Fit the network to labels of random crops."""
    model, steps = tinyiqa(), config.epochs * (len(images) // config.batch_size)
    variables = jax.jit(model.init)(jax.random.key(config.seed))
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, steps // 20, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=config.weight_decay))
    state = optimizer.init(variables)

    def loss_fn(variables: Variables, images: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(optax.huber_loss(model.apply(variables, images), labels, delta=5.0))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        variables: Variables, state: optax.OptState, images: jax.Array, labels: jax.Array
    ) -> tuple[Variables, optax.OptState, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(variables, images.astype(jnp.float32) / 255.0, labels)
        updates, state = optimizer.update(grads, state, variables)
        return optax.apply_updates(variables, updates), state, loss

    rng = np.random.default_rng(config.seed)
    for epoch in range(config.epochs):
        losses = []
        for batch, targets in _epoch(rng, images, labels, config):
            variables, state, loss = step(variables, state, batch, targets)
            losses.append(loss)
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, SROCC {evaluate_now(variables):.4f}", flush=True)
    return variables


def _epoch(
    rng: np.random.Generator, images: np.ndarray, labels: np.ndarray, config: Config
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled batches of random crops, mirrored half of the time."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
        chosen = order[start : start + config.batch_size]
        corners = rng.integers(0, np.array(images.shape[1:3]) - config.crop + 1, (len(chosen), 2))
        cuts = [images[i, y : y + config.crop, x : x + config.crop] for i, (y, x) in zip(chosen, corners)]
        mirrored = rng.random(len(cuts)) < 0.5
        yield np.stack([cut[:, ::-1] if flip else cut for cut, flip in zip(cuts, mirrored)]), labels[chosen]


def evaluate(variables: Variables, data: Mapping[str, tuple[np.ndarray, float]]) -> float:
    """SROCC between scores of whole images and their labels."""
    images, labels = _stack(data)
    score_fn = tinyiqa().score_fn(variables)
    scores = [call(score_fn, jnp.asarray(image[None], jnp.float32) / 255.0) for image in images]
    return srocc(np.concatenate(scores), labels)


def _stack(data: Mapping[str, tuple[np.ndarray, float]]) -> tuple[np.ndarray, np.ndarray]:
    images, labels = zip(*data.values())
    return np.stack(images), np.array(labels, np.float32)


def main(config: Config) -> int:
    """Train, and say how well it went."""
    print(f"held-out SROCC {run(config)['held_out_srocc']:.4f}; wrote {config.out}")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
