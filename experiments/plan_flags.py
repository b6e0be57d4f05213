"""The plan of a training run as flags: what is left out follows a published schedule, or defaults."""

import dataclasses

from experiments import cli
from experiments.catalog import DEFENSES, LOSSES, OPTIMISERS, PLANS, RELABELLINGS, SCHEDULES
from experiments.training.labels import LABELS
from experiments.training.plan import Plan
from experiments.training.recipes import UNITS
from experiments.training.samples import Cuts
from nriqa_jax.defenses.training import METHODS

_ELSE = "; by default that of --config, else"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """Settings of every script that trains."""

    config: str | None = cli.flag(None, "A published schedule.", PLANS)
    paper_quirks: bool = cli.flag(False, "Also do what the published code of --config does besides its paper.")
    loss: str | None = cli.flag(None, f"Training loss{_ELSE} huber.", LOSSES)
    epochs: int | None = cli.flag(None, f"Passes over the data{_ELSE} 20.")
    batch_size: int | None = cli.flag(None, f"Samples in a step{_ELSE} 16.")
    crop: int | None = cli.flag(None, f"Side of square crops in pixels, 0 for whole images{_ELSE} 224.")
    crops: int | None = cli.flag(None, f"Crops of each image in an epoch{_ELSE} 1.")
    flip: float | None = cli.flag(None, f"Chance that a sample is mirrored left to right{_ELSE} 0.5.")
    resize: str | None = cli.flag(None, f"Rows x columns, as 498x664, to squash training images to{_ELSE} their own.")
    optimiser: str | None = cli.flag(None, f"Optimiser{_ELSE} adam.", OPTIMISERS)
    learning_rate: float | None = cli.flag(None, f"Learning rate{_ELSE} 1e-4.")
    head_factor: float | None = cli.flag(None, f"Factor of the rate of all but the backbone{_ELSE} 1.")
    head_factor_epochs: int | None = cli.flag(None, f"Epochs that this factor holds, 0 for all{_ELSE} 0.")
    freeze_backbone: bool | None = cli.flag(None, f"Train all but the backbone{_ELSE} all.")
    weight_decay: float | None = cli.flag(None, f"Weight decay{_ELSE} 0.")
    clip: float | None = cli.flag(None, f"Largest norm of the gradient, 0 for any{_ELSE} 0.")
    ema: float | None = cli.flag(None, f"Decay of an average of the weights, which is kept; 0 for none{_ELSE} 0.")
    schedule: str | None = cli.flag(None, f"Course of the learning rate{_ELSE} cosine.", SCHEDULES)
    decay: float | None = cli.flag(None, f"Factor of the schedule step{_ELSE} 0.1.")
    decay_every: int | None = cli.flag(None, f"Epochs from one such factor to the next{_ELSE} 10.")
    defense: str | None = cli.flag(None, f"Defense{_ELSE} none.", DEFENSES)
    nt_weight: float | None = cli.flag(None, f"Weight of the gradient's norm{_ELSE} 1e-3.")
    nt_step: float | None = cli.flag(None, f"Step of its finite differences, in --nt_units{_ELSE} 0.01.")
    nt_method: str | None = cli.flag(None, f"How it is computed{_ELSE} finite_difference.", METHODS)
    nt_units: str | None = cli.flag(None, f"What the gradient is taken by{_ELSE} normalised.", UNITS)
    epsilon: str | None = cli.flag(None, f"Radius of the attacks to train against{_ELSE} 4/255.")
    attack_steps: int | None = cli.flag(None, f"Their gradient steps; for free, uses of each batch{_ELSE} 1.")
    relabel: str | None = cli.flag(None, f"Labels of attacked images{_ELSE} keep.", RELABELLINGS)
    consistency: float | None = cli.flag(None, f"Weight of TRADES{_ELSE} 6.")
    labels: str | None = cli.flag(None, f"Scores mapped to the unit of the model, or raw{_ELSE} model.", LABELS)


def plan_of(config: PlanFlags) -> Plan:
    """The plan that flags describe.

    Raises:
      UserError: when a setting does not make sense.
    """
    base = PLANS[config.config] if config.config else Plan()
    if config.paper_quirks and not base.quirks:
        known = ", ".join(name for name, plan in PLANS.items() if plan.quirks)
        raise cli.UserError(f"--paper_quirks goes with a --config whose code has some: {known}")
    given = {field.name: getattr(config, field.name, None) for field in dataclasses.fields(Plan)}
    plan = dataclasses.replace(base, **{name: value for name, value in given.items() if value is not None})
    plan = dataclasses.replace(plan, quirks=plan.quirks if config.paper_quirks else ())
    _check(plan)
    return plan


def cuts_of(plan: Plan) -> Cuts:
    """How samples are taken.

    Raises:
      UserError: when ``--resize`` is no size.
    """
    try:
        size = tuple(int(side) for side in plan.resize.split("x")) if plan.resize else None
    except ValueError:
        size = ()
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise cli.UserError(f"--resize={plan.resize} must be rows x columns, such as 498x664")
    return Cuts(plan.crop, plan.crops, plan.flip, size and (size[0], size[1]))


def _check(plan: Plan) -> None:
    """Refuse numbers that make no sense."""
    for name in ("epochs", "batch_size", "crops", "decay_every", "attack_steps"):
        if getattr(plan, name) < 1:
            raise cli.UserError(f"--{name}={getattr(plan, name)} must be at least 1")
    positive = ("learning_rate", "head_factor", "decay", "nt_step")
    for name in (*positive, "crop", "head_factor_epochs", "weight_decay", "clip", "nt_weight", "consistency"):
        value = getattr(plan, name)
        if not 0 <= value < float("inf") or (name in positive and value == 0):
            raise cli.UserError(f"--{name}={value} must be {'above' if name in positive else 'at least'} 0")
    for name in ("flip", "ema"):
        if not 0 <= getattr(plan, name) <= 1:
            raise cli.UserError(f"--{name}={getattr(plan, name)} must be from 0 to 1")
    cli.parse_epsilon(plan.epsilon)
    if DEFENSES[plan.defense].free and not plan.crop:
        raise cli.UserError(f"--defense={plan.defense} carries a change from batch to batch; give crops of one --crop")
    cuts_of(plan)
