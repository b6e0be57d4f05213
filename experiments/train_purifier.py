r"""Train FCN, the learned filter of the purification study, to undo attacks.

python -m experiments.train_purifier --images=PHOTOGRAPHS --models=tinyiqa:embedded,cnniqa:CNNIQA.pth --out=out/fcn

Each step attacks random crops through one of the models, by one of the attacks at one of the radii, up or down, and
fits the filter to the clean crops, from the attacked ones and from themselves. One photograph in ten is held out for
validation, which selects nothing. Writes fcn_VARIANT.safetensors, its card fcn_VARIANT.md, and training.csv. Killed and
run again, it goes on, and ends with the same bytes.
"""

import csv
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments import checkpoints, cli, filters, ledger, listed, loading, pipeline, purifier_training
from experiments.catalog import ATTACKS, FILTERS
from experiments.purifier_training import Curriculum, MakeAttack, Photographs, Victim
from nriqa_jax.defenses.fcn import LearnedFilter
from nriqa_jax.prepare import Variables
from nriqa_jax.types import Objective

Measured = dict[str, float]
_VALIDATION_STEPS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of a training run."""

    images: str = cli.flag(cli.REQUIRED, "Folder of pristine photographs (with its sub-folders).")
    models: str = cli.flag(
        "tinyiqa:embedded", "Models to attack, as NAME:WEIGHTS[:protocol=PROTOCOL], separated by commas."
    )
    out: str = cli.flag(cli.REQUIRED, "Run folder; the same command run again continues an interrupted run.")
    variant: str = cli.flag("residual", "The network: ref is the published one.", FILTERS)
    attacks: str = cli.flag("fgsm,ifgsm,mifgsm,pgd", "Attacks to undo, separated by commas; advcf changes colours.")
    epsilons: str = cli.flag("2/255,4/255,8/255,10/255", "Radii of the attacks that have one, separated by commas.")
    attack_steps: int = cli.flag(4, "Steps of the attacks that have some.")
    steps: int = cli.flag(3000, "Steps of training.")
    pairs: int = cli.flag(8, "Attacked crops per step; as many clean ones are added.")
    crop: int = cli.flag(96, "Side of the square crops, in pixels.")
    learning_rate: float = cli.flag(2e-3, "Of Adam, before its cosine decay.")
    held_out: int = cli.flag(10, "One photograph in this many is held out.")
    validation_crop: int = cli.flag(192, "Side of the middle of the held-out photographs, in pixels.")
    validation_epsilon: str = cli.flag("4/255", "Radius of the I-FGSM of validation.")
    validate_every: int = cli.flag(500, "Steps between validations, after each of which the run can go on.")
    seed: int = cli.flag(0, "Seed of weights and of all draws.")


def run(config: Config) -> Measured:
    """Train, write the filter, and return how it does on the held-out photographs."""
    attacks = _attacks(config)
    radii = [cli.parse_epsilon(text, "epsilons") for text in listed.parts(config.epsilons)]
    models = listed.load_models(config.models, config.seed)
    victims = {name: Victim(found.score_fn, found.model.score_range) for name, found in models.items()}
    _check(config, max(found.model.preprocess.min_side for found in models.values()))
    out, digests = Path(config.out), {name: found.sha256 for name, found in models.items()}
    images = pipeline.survey(Path(config.images), out, 1)
    training, held_out = _photographs(config, images)
    details = {"weights_sha256": digests, **ledger.provenance("highest")}
    ledger.open_run(out, pipeline.run_config("train_purifier", config, images, details))
    judge = _judge(config, victims, held_out)
    curriculum = Curriculum(training, victims, attacks, radii, config.crop, config.pairs, config.seed)
    variables = train(config, curriculum, judge)
    found = judge(variables)
    write(config, variables, digests, found, (len(training), len(held_out)))
    return found


def _check(config: Config, min_side: int) -> None:
    for name in ("attack_steps", "steps", "pairs", "validate_every"):
        if getattr(config, name) < 1:
            raise cli.UserError(f"--{name}={getattr(config, name)} must be at least 1")
    for name in ("crop", "validation_crop"):
        if getattr(config, name) < min_side:
            raise cli.UserError(f"--{name}={getattr(config, name)}: these models need at least {min_side} pixels")
    if config.held_out < 2:
        raise cli.UserError(f"--held_out={config.held_out} must be at least 2")


def _attacks(config: Config) -> dict[str, MakeAttack]:
    """The attacks of the list; only those that need nothing but an objective can be in it."""
    signatures = {name: list(inspect.signature(make).parameters.values())[1:] for name, make in ATTACKS.items()}
    usable = [name for name, settings in signatures.items() if all(p.default is not p.empty for p in settings)]
    names = listed.parts(config.attacks)
    listed.known("attacks", names, usable)
    return {name: _attack(name, config.attack_steps) for name in names}


def _attack(name: str, steps: int) -> MakeAttack:
    accepted = inspect.signature(ATTACKS[name]).parameters
    own = {"steps": steps} if "steps" in accepted else {}
    has_radius = "epsilon" in accepted and accepted["epsilon"].default is not None

    def make(objective: Objective, radius: float) -> Any:
        return ATTACKS[name](objective, **own, **({"epsilon": radius} if has_radius else {}))

    return make


def _photographs(config: Config, images: loading.ImageSet) -> tuple[Photographs, Photographs]:
    """Those to train on, and those held out."""
    decoded = (loading.decode(images, name) for name in images.sizes)
    found = [pixels for pixels in decoded if isinstance(pixels, np.ndarray)]
    if len(found) < 2:
        raise cli.UserError(f"--images={config.images}: at least 2 images that can be read are needed")
    return [pixels for i, pixels in enumerate(found) if i % config.held_out], found[:: config.held_out]


def _judge(config: Config, victims: Mapping[str, Victim], held_out: Photographs) -> Callable[[Variables], Measured]:
    radius = cli.parse_epsilon(config.validation_epsilon, "validation_epsilon")
    attack, side = _attack("ifgsm", _VALIDATION_STEPS), config.validation_crop
    validation = purifier_training.validation_set(victims, attack, radius, held_out, side, config.seed)
    network, keys = FILTERS[config.variant](), jax.random.split(jax.random.key(config.seed), len(held_out))
    return lambda variables: purifier_training.validate(LearnedFilter(variables, network), victims, validation, keys)


def train(config: Config, curriculum: Curriculum, judge: Callable[[Variables], Measured]) -> Variables:
    """Train from where an earlier run was, or from the start."""
    network = FILTERS[config.variant]()
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))
    take_step = purifier_training.step_of(network, optimizer)
    start = purifier_training.first_progress(network, optimizer, jax.random.key(config.seed))
    log, losses = Path(config.out) / "training.csv", []
    with checkpoints.opened(Path(config.out) / "checkpoints") as saved:
        progress, done, _ = saved.restore(start)
        rows = [row for row in _read_rows(log) if int(row["step"]) <= done]
        for step in range(done + 1, config.steps + 1):
            progress, loss = take_step(progress, purifier_training.draw_pairs(curriculum, step))
            losses.append(loss)
            if step % config.validate_every == 0 or step == config.steps:
                rows.append({"step": step, "mse_x1000": 1e3 * float(np.mean(losses)), **judge(progress.variables)})
                print(", ".join(f"{name} {ledger.format_cell(value)}" for name, value in rows[-1].items()), flush=True)
                ledger.write_rows(log, list(rows[-1]), [list(row.values()) for row in rows])
                saved.save(step, progress)
                losses = []
    return progress.variables


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(
    config: Config, variables: Variables, digests: Mapping[str, str], found: Measured, counts: tuple[int, int]
) -> None:
    """Write the filter with a record of its training, and its card."""
    path = Path(config.out) / f"fcn_{config.variant}{filters.EXTENSION}"
    left_out = {"images", "out", "models", *(field.name for field in dataclasses.fields(cli.Machine))}
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in left_out}
    record = {"script": "train_purifier", "flags": settings, "weights_sha256": dict(digests), "held_out": found}
    filters.save(path, FILTERS[config.variant](), variables, record)
    ledger.write_atomic(path.with_suffix(".md"), card(config, digests, found, counts).encode())


def card(config: Config, digests: Mapping[str, str], found: Measured, counts: tuple[int, int]) -> str:
    """What a user must know of a trained filter."""
    models = ", ".join(f"{name} (sha256 {digest[:12]})" for name, digest in digests.items())
    removed = "\n".join(f"| gain removed, {name} | {found[f'gain_removed_{name}']:.1%} |" for name in digests)
    side = config.validation_crop
    return f"""# FCN, variant {config.variant}, seed {config.seed}

A learned filter against attacks on quality models: three convolutions, 11,459 parameters. It has seen attacks on the
models below alone; others, and attacks that know of it, may get through.

- Data: {counts[0]} photographs for training, {counts[1]} held out (one in {config.held_out} by name).
- Pairs: {config.pairs} random {config.crop}x{config.crop} crops a step, mirrored half of the time, attacked and as they
  are. Models: {models}. Attacks, scores up or down:
  {config.attacks}; {config.attack_steps} steps; epsilon {config.epsilons}.
- Optimisation: mean squared error to the clean crop, before values are cut off; Adam, learning rate
  {config.learning_rate:g} with cosine decay, {config.steps} steps. The last step was kept.

Measured on the middle {side}x{side} pixels of the held-out photographs, under I-FGSM at {config.validation_epsilon},
{_VALIDATION_STEPS} steps, of an attacker who does not know of the filter:

| | |
|---|---|
| PSNR of filtered clean images | {found["psnr_clean"]:.2f} dB |
| PSNR of filtered attacked images | {found["psnr_attacked"]:.2f} dB, {found["psnr_unfiltered"]:.2f} dB unfiltered |
{removed}
"""


def main(config: Config) -> int:
    """Train, and say how well it went."""
    found = run(config)
    print(", ".join(f"{name} {value:.4f}" for name, value in found.items()) + f"; wrote {config.out}")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
