"""From flags to an attack: which settings fit it, its strength, and matching that to a visible change."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import cli, natural, networks, patterns, settings, weights
from experiments.catalog import ATTACKS, DISTANCES, PLAIN_DISTANCES
from nriqa_jax.attacks.composite import Matched
from nriqa_jax.metrics import fidelity
from nriqa_jax.types import Objective

MakeAttack = Callable[[Objective], Any]
_OTHER_BALLS = ("pgd_l2",)  # whose radius is no change of a pixel value
_LARGEST_CHANGE = {"facpa": 100 / 255}  # of a pixel value, at strength 1, where it is known beforehand
_COUNTS = ("steps", "restarts", "queries")
_BRACKET = 64  # factor by which a matched strength may differ from the attack's own, up and down
_SLACK = 1e-6  # of limits that 8-bit images meet exactly

_DISTANCES = (*PLAIN_DISTANCES, *DISTANCES)
_NEEDED = {  # settings without a default
    "pattern": "--pattern=FILE, made by experiments.train_universal",
    "network": "--network=FILE, made by experiments.train_universal --method=facpa",
    "natural": "--natural=FILE, or a folder of good photographs",
}

COSTS: Mapping[str, tuple[Callable[..., Any], Callable[[float], float]]] = {
    "match_linf": (fidelity.linf, lambda limit: limit),
    "match_ssim": (lambda x, y: 1.0 - fidelity.ssim(x, y), lambda limit: 1.0 - limit),
    "match_psnr": (lambda x, y: -fidelity.psnr(x, y), lambda limit: -limit),
}


def describe(attacks: Mapping[str, Callable[..., Any]]) -> str:
    """A line on each attack: the first of its documentation."""
    lines = {name: (inspect.getdoc(make) or "").partition("\n")[0] for name, make in attacks.items()}
    return "\n".join(f"{name}: {line}" for name, line in lines.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyAttack(settings.Attack):
    """Settings of every attack, its strength included."""

    attack: str = cli.flag("ifgsm", f"Attack:\n{describe(ATTACKS)}", ATTACKS)
    strength: float | None = cli.flag(None, "The attack's own knob where that is not epsilon, such as a step size.")
    queries: int | None = cli.flag(None, "Number of queries of attacks without gradients; by default the attack's own.")
    pattern: str = cli.flag("", "File of a universal perturbation, .npy or .safetensors, for --attack=universal.")
    network: str = cli.flag("", "File of a network that draws changes, .safetensors, for --attack=facpa.")
    distance: str = cli.flag("ssim", "What --attack=perceptual and its variants keep small.", _DISTANCES)
    distance_weights: str = cli.flag("", "Weights of the distance: a .safetensors or PyTorch file, or random.")
    distance_backbone: str = cli.flag("", "PyTorch file of its backbone, where --distance_weights has the heads alone.")
    natural: str = cli.flag("", "Model of natural images of NIQE, or good photographs, for --attack=amifgsm_niqe.")
    match_linf: str = cli.flag("", "Search each image's strength for this largest change of a pixel, such as 4/255.")
    match_ssim: float | None = cli.flag(None, "Search each image's strength for this SSIM, such as 0.9.")
    match_psnr: float | None = cli.flag(None, "Search each image's strength for this PSNR in dB, such as 35.")


def resolve(config: Any) -> Any:
    """The settings with the radius that they mean: the attack's own, where none is given and it has one."""
    own = parameters(config.attack).get("epsilon")
    if config.epsilon or own is None or own.default is None:
        return config
    return dataclasses.replace(config, epsilon=cli.format_epsilon(own.default))


def preset(config: Any, more: int = 1) -> MakeAttack:
    """A function from an objective to the attack that the flags ask for, with ``more`` times its steps.

    Raises:
      cli.UserError: when a flag does not fit the attack.
    """
    make, accepted = ATTACKS[config.attack], parameters(config.attack)
    chosen = _chosen(config)
    for name, value in chosen.items():
        if name not in accepted:
            raise cli.UserError(f"--{name} does not apply to --attack={config.attack}")
        if name in _COUNTS and value < 1:
            raise cli.UserError(f"--{name}={value} must be at least 1")
    for name in needed(config.attack) - chosen.keys():
        raise cli.UserError(f"--attack={config.attack} needs {_NEEDED[name]}")
    if more > 1 and "steps" in accepted:
        chosen["steps"] = more * chosen.get("steps", accepted["steps"].default)
    needs_distance = "distance" in inspect.signature(make).parameters
    others = [_distance(config)] if needs_distance else []
    return _matched(config, lambda objective, **knob: make(objective, *others, **{**chosen, **knob}))


def parameters(attack: str) -> dict[str, inspect.Parameter]:
    """The settings of an attack; the first is its strength."""
    accepted = inspect.signature(ATTACKS[attack]).parameters
    return {name: parameter for name, parameter in accepted.items() if parameter.kind is parameter.KEYWORD_ONLY}


def read_entry(text: str, flag: str) -> tuple[str, dict[str, int]]:
    """An attack of a list, and its settings after colons: ``ssah:steps=20``.

    Raises:
      cli.UserError: when it names no attack, or sets something else.
    """
    attack, *given = text.strip().split(":")
    if attack not in ATTACKS:
        raise cli.UserError(f"--{flag}: there is no '{attack}'; give some of {', '.join(ATTACKS)}")
    pairs = [setting.partition("=") for setting in given]
    for setting, (name, _, value) in zip(given, pairs):
        if name not in _COUNTS or not value.isdigit():
            raise cli.UserError(f"--{flag}: '{setting}' is not steps=N, restarts=N or queries=N")
    return attack, {name: int(value) for name, _, value in pairs}


def needed(attack: str) -> set[str]:
    """The settings of an attack that have no default: files."""
    return _NEEDED.keys() & parameters(attack).keys()


def strength_is_radius(attack: str) -> bool:
    """Whether the strength of an attack is the largest change of a pixel value."""
    return attack not in _OTHER_BALLS and next(iter(parameters(attack)), None) == "epsilon"


def strength_for(attack: str, epsilon: str) -> float | None:
    """The strength of an attack whose largest change of a pixel value is a radius; None where only a search tells."""
    return cli.parse_epsilon(epsilon) / _LARGEST_CHANGE[attack] if attack in _LARGEST_CHANGE else None


def bounded(attack: str, epsilon: str) -> dict[str, str]:
    """The flag that bounds the change of an attack: its radius if it has one, else a search for its strength."""
    has_radius = attack not in _OTHER_BALLS and "epsilon" in parameters(attack)
    return {"epsilon" if has_radius else "match_linf": epsilon}


def _chosen(config: Any) -> dict[str, Any]:
    """The settings that flags give."""
    asked = {
        "epsilon": cli.parse_epsilon(config.epsilon) if config.epsilon else None,
        "step_size": cli.parse_epsilon(config.step_size, "step_size") if config.step_size else None,
        "steps": config.steps,
        "restarts": config.restarts,
    }
    if isinstance(config, AnyAttack):
        knob = next(iter(parameters(config.attack)))
        if config.strength is not None:
            if knob == "epsilon":
                raise cli.UserError(f"--strength: the strength of --attack={config.attack} is --epsilon")
            asked[knob] = _positive("strength", config.strength)
        asked["queries"] = config.queries
        asked["pattern"] = patterns.load_pattern(Path(config.pattern)) if config.pattern else None
        asked |= networks.load_network(Path(config.network)).settings() if config.network else {}
        asked["natural"] = natural.load(config.natural) if config.natural else None
    return {name: value for name, value in asked.items() if value is not None}


def _distance(config: Any) -> Callable[..., Any]:
    if config.distance in PLAIN_DISTANCES:
        return PLAIN_DISTANCES[config.distance]
    if not config.distance_weights:
        raise cli.UserError(f"--distance={config.distance} needs --distance_weights=FILE, or random")
    distance = DISTANCES[config.distance]()
    found = weights.load_distance(config.distance_weights, distance, config.seed, config.distance_backbone)
    return distance.distance(found.variables)


def _matched(config: Any, make: Callable[..., Any]) -> MakeAttack:
    limits = {name: getattr(config, name, None) for name in COSTS}
    asked = {name: limit for name, limit in limits.items() if limit}
    if not asked:
        return make
    if len(asked) > 1:
        raise cli.UserError(f"give one of {', '.join('--' + name for name in asked)}")
    (name, limit), accepted = next(iter(asked.items())), parameters(config.attack)
    cost, as_cost = COSTS[name]
    value = cli.parse_epsilon(limit, name) if isinstance(limit, str) else _positive(name, limit)
    knob = next(iter(accepted))
    own = accepted[knob].default
    low, high = own / _BRACKET, own * _BRACKET
    return lambda objective: Matched(
        objective, lambda k: make(objective, **{knob: k}), cost, as_cost(value) + _SLACK, low, high
    )


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise cli.UserError(f"--{name}={value:g} must be above 0")
    return value
