"""Training a filter: pairs of attacked and clean crops, the compiled step, and what validation measures.

All that a step draws follows from the seed and its number alone, so that a run goes on anywhere as it would have.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt8

from experiments.train_universal import cut_at
from nriqa_jax.attacks import objectives
from nriqa_jax.defenses import fcn
from nriqa_jax.defenses.adaptive import defended
from nriqa_jax.defenses.fcn import FCN, LearnedFilter
from nriqa_jax.image import from_uint8
from nriqa_jax.metrics import defense, fidelity
from nriqa_jax.parallel import call, run_attack
from nriqa_jax.prepare import Variables
from nriqa_jax.types import AttackResult, Images, Objective, ScoreFn

Photographs = Sequence[UInt8[np.ndarray, "_ _ 3"]]
MakeAttack = Callable[[Objective, float], Any]


class Victim(NamedTuple):
    """A model whose attacks a filter learns to undo.

    Attributes:
      score_fn: the model.
      score_range: its lowest and highest score.
    """

    score_fn: ScoreFn
    score_range: tuple[float, float]


class Curriculum(NamedTuple):
    """What the pairs of a training run are drawn from.

    Attributes:
      photographs: pristine images.
      victims: models, by name.
      attacks: ``(objective, radius) -> attack``, by name; those without a radius ignore it.
      radii: that attacks have, in units of the pixel range.
      crop: side of the crops, in pixels.
      pairs: attacked crops in a batch; as many clean ones are added.
      seed: of all draws.
    """

    photographs: Photographs
    victims: Mapping[str, Victim]
    attacks: Mapping[str, MakeAttack]
    radii: Sequence[float]
    crop: int
    pairs: int
    seed: int


class Pairs(NamedTuple):
    """Images and what they should become."""

    images: Images
    targets: Images


class Progress(NamedTuple):
    """What a training run carries from step to step."""

    variables: Variables
    optimizer: optax.OptState


def draw_pairs(curriculum: Curriculum, step: int) -> Pairs:
    """The batch of a step: crops under one attack on one model, up or down, and the same crops as they are."""
    rng = np.random.default_rng((curriculum.seed, step))
    clean = from_uint8(jnp.asarray(_crops(curriculum, rng)))
    victim = curriculum.victims[rng.choice(sorted(curriculum.victims))]
    make = curriculum.attacks[rng.choice(sorted(curriculum.attacks))]
    directions = rng.choice([-1.0, 1.0], curriculum.pairs).astype(np.float32)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(curriculum.seed), step), curriculum.pairs)
    attacked = attack_images(victim, make, float(rng.choice(curriculum.radii)), directions, clean, keys).images
    return Pairs(jnp.concatenate([attacked, clean]), jnp.concatenate([clean, clean]))


def attack_images(
    victim: Victim,
    make: MakeAttack,
    radius: float,
    directions: Float[np.ndarray, " batch"],
    images: Images,
    keys: Array,
) -> AttackResult:
    """Move the scores of images up where their direction is 1, and down where it is -1."""
    objective = objectives.per_range(objectives.push(jnp.asarray(directions)), *victim.score_range)
    return run_attack(make(objective, radius), victim.score_fn, images, keys)


def first_progress(network: FCN, optimizer: optax.GradientTransformation, key: Array) -> Progress:
    """The state before the first step."""
    variables = jax.jit(partial(fcn.init, network))(key)
    return Progress(variables, optimizer.init(variables))


def step_of(
    network: FCN, optimizer: optax.GradientTransformation
) -> Callable[[Progress, Pairs], tuple[Progress, Array]]:
    """A compiled step, ``(progress, pairs) -> (progress, loss)``; the progress given is used up.

    The loss is the squared error before values are cut off at 0 and 1, where the gradient would end.
    """

    def loss_fn(variables: Variables, pairs: Pairs) -> Array:
        found: Any = network.apply(variables, pairs.images)
        return jnp.mean((found - pairs.targets) ** 2)

    @partial(jax.jit, donate_argnums=0)
    def step(progress: Progress, pairs: Pairs) -> tuple[Progress, Array]:
        loss, grads = jax.value_and_grad(loss_fn)(progress.variables, pairs)
        updates, state = optimizer.update(grads, progress.optimizer, progress.variables)
        return Progress(optax.apply_updates(progress.variables, updates), state), loss

    return step


class Validation(NamedTuple):
    """Photographs that a filter is not trained on, and what attacks make of them.

    Attributes:
      clean: the photographs.
      attacked: by name of the model that was attacked.
    """

    clean: Images
    attacked: Mapping[str, Images]


def validation_set(
    victims: Mapping[str, Victim], make: MakeAttack, radius: float, photographs: Photographs, side: int, seed: int
) -> Validation:
    """The middle of each photograph, attacked through each model, every other one up."""
    middle = np.full(2, 0.5)
    clean = from_uint8(jnp.asarray(np.stack([cut_at(pixels, middle, side) for pixels in photographs])))
    directions = np.where(np.arange(len(clean)) % 2, -1.0, 1.0).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), len(clean))
    attack = partial(attack_images, make=make, radius=radius, directions=directions, images=clean, keys=keys)
    return Validation(clean, {name: attack(victim).images for name, victim in victims.items()})


def validate(
    found: LearnedFilter, victims: Mapping[str, Victim], validation: Validation, keys: Array
) -> dict[str, float]:
    """How faithful a filter is, and what it removes: PSNR in dB, and the share of each model's gain."""
    clean, attacked = validation.clean, validation.attacked

    def psnr(images: Images) -> float:
        return float(jnp.mean(call(fidelity.psnr, images, clean)))

    filtered = [call(found, images, keys) for images in attacked.values()]
    numbers = {
        "psnr_clean": psnr(call(found, clean, keys)),
        "psnr_attacked": float(np.mean([psnr(images) for images in filtered])),
        "psnr_unfiltered": float(np.mean([psnr(images) for images in attacked.values()])),
    }
    for name, victim in victims.items():
        behind = defended(victim.score_fn, found)
        columns = [call(model, images) for model in (victim.score_fn, behind) for images in (clean, attacked[name])]
        numbers[f"gain_removed_{name}"] = defense.gain_removed(*map(np.asarray, columns))
    return numbers


def _crops(curriculum: Curriculum, rng: np.random.Generator) -> UInt8[np.ndarray, "pairs side side 3"]:
    """Random crops of random photographs, mirrored half of the time; small ones are mirrored up to the crop first."""
    photographs, count = curriculum.photographs, curriculum.pairs
    chosen = rng.choice(len(photographs), count, replace=len(photographs) < count)
    cuts = [cut_at(photographs[i], place, curriculum.crop) for i, place in zip(chosen, rng.random((count, 2)))]
    return np.stack([cut[:, ::-1] if mirrored else cut for cut, mirrored in zip(cuts, rng.random(count) < 0.5)])
