"""Attacks and purifiers as flags spell them: ``ifgsm:epsilon=8/255:steps=20``, ``jpeg:preset=2``."""

import ast
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_args

from experiments import attack_flags, attack_images, ledger, listed, settings
from experiments.catalog import PURIFIERS
from experiments.errors import UserError
from nriqa_jax.defenses.purifier import Purification
from nriqa_jax.types import Purifier


class Spelled(NamedTuple):
    """A name with settings.

    Attributes:
      text: as it was written, which is how tables call it.
      name: the name alone.
      settings: values as text.
    """

    text: str
    name: str
    settings: tuple[tuple[str, str], ...]

    @property
    def folder(self) -> str:
        """The text as a name of a folder."""
        return ledger.folder_name(self.text)


def read(flag: str, text: str, table: Iterable[str]) -> list[Spelled]:
    """A list of them, separated by commas.

    Args:
      flag: where the list is from, for messages.
      text: the list.
      table: accepted names.

    Raises:
      UserError: when a name is unknown, something is there twice, or a setting has no value.
    """
    found = [read_one(flag, part) for part in listed.parts(text)]
    listed.known(flag, [one.name for one in found], table)
    folders = [one.folder for one in found]
    for one in found:
        if folders.count(one.folder) > 1:
            raise UserError(f"--{flag}: {one.text} is there twice")
    return found


def read_one(flag: str, text: str) -> Spelled:
    """One of them, whose name may be any.

    Args:
      flag: where the text is from, for messages.
      text: as it was written.

    Raises:
      UserError: when a setting has no value.
    """
    name, *settings = text.split(":")
    pairs = [setting.partition("=") for setting in settings]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise UserError(f"--{flag}: {text} should be like NAME:SETTING=VALUE")
    return Spelled(text, name, tuple((key, value) for key, _, value in pairs))


def purifier(spelled: Spelled, flag: str = "purifiers") -> Purifier:
    """The purifier that is meant: ``preset=0`` to ``preset=4`` are the published ones, others are its own settings.

    Raises:
      UserError: when it has no such setting or preset, or the value is none for it.
    """
    make: Any = PURIFIERS[spelled.name]
    settings = dict(spelled.settings)
    number = settings.pop("preset", None)
    accepted = inspect.signature(make).parameters
    try:
        if number is not None:
            if settings:
                raise ValueError("a preset has no further settings")
            return make.preset(int(number))
        unknown = sorted(settings.keys() - accepted.keys())
        if unknown:
            raise ValueError(f"it has no setting '{unknown[0]}', but: {', '.join(['preset', *accepted])}")
        found = make(**{name: _value(accepted[name], text) for name, text in settings.items()})
        _check_strength(found, settings, accepted)
        return found
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"--{flag}: {spelled.text}: {error}") from error


def attack(spelled: Spelled, objective: str) -> attack_images.Config:
    """The settings of the attack that is meant: its name, and flags of ``experiments.attack_images``.

    Raises:
      UserError: when there is no such flag for attacks, or the value is none for it.
    """
    shared = {field.name for field in dataclasses.fields(settings.Common)}
    flags = {field.name: field for field in dataclasses.fields(attack_flags.AnyAttack)}
    chosen: dict[str, Any] = {}
    for name, text in spelled.settings:
        if name not in flags.keys() - shared - {"attack", "precision", "rematerialize"}:
            raise UserError(f"--attacks: {spelled.text}: attacks have no setting '{name}'")
        kind = next(
            kind for kind in (int, float, str) if kind is flags[name].type or kind in get_args(flags[name].type)
        )
        try:
            chosen[name] = kind(text)
        except ValueError:
            raise UserError(f"--attacks: {spelled.text}: {name}={text} is not a number") from None
    unused: dict[str, Any] = dict.fromkeys(("model", "weights", "images", "out"), "")
    return attack_images.Config(attack=spelled.name, objective=objective, **unused, **chosen)


def _value(parameter: inspect.Parameter, text: str) -> Any:
    """A setting: text where its default is text, else a number, a truth value or a tuple."""
    if isinstance(parameter.default, str):
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        raise ValueError(f"{parameter.name}={text} is not a number") from None


def _check_strength(found: Purifier, settings: Mapping[str, str], accepted: Mapping[str, inspect.Parameter]) -> None:
    strength = next(iter(accepted), "")
    if strength in settings and isinstance(found, Purification):
        low, high = found.limits
        if not low <= getattr(found, strength) <= high:
            raise ValueError(f"{strength} must be from {low:g} to {high:g}")
