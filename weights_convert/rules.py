"""The rule engine: renames and transposes the tensors of a checkpoint, and accepts the result only if it is complete.

A conversion is a table of rules. Every tensor of the checkpoint must fit exactly one rule, and every variable of the
model must come from exactly one tensor, of its shape, without NaN or infinity. Whatever fails is collected, so that one
message says everything that is wrong with a file.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import numpy as np

from nriqa_jax.models.distance import Distance
from nriqa_jax.models.model import Model
from weights_convert.pickle_names import CheckpointError

Transform = Callable[[np.ndarray], np.ndarray]
Shapes = Mapping[str, jax.ShapeDtypeStruct]
Owner = Model | Distance  # of weights

CONTAINERS = ("model", "state_dict", "params")
_WRAPPER = "module"  # what DataParallel puts in front of the names, at any depth
_COUNTER = "num_batches_tracked"
_LINES = 20


def as_is(array: np.ndarray) -> np.ndarray:
    """The transform that changes nothing."""
    return array


@dataclass(frozen=True)
class Rule:
    r"""Where one kind of tensor goes.

    Attributes:
      pattern: regular expression that a whole tensor name must match.
      path: path of the variable, such as ``params/conv1/kernel``, with back-references (``\1``) to the pattern; None
        for a tensor that the model has no use for.
      transform: layout change; it must leave arrays of an unexpected rank alone, so that their shape is reported.
      outside: whether the tensor lies beside the container of the others, and is named from the root of the file.
    """

    pattern: str
    path: str | None
    transform: Transform = as_is
    outside: bool = False


@dataclass(frozen=True)
class Layout:
    """How a kind of checkpoint names the tensors of a model.

    Attributes:
      rules: where each tensor goes.
      score_range: lowest and highest score of these weights, where it is not that of the model's card.
    """

    rules: tuple[Rule, ...]
    score_range: tuple[float, float] | None = None


@dataclass
class Problems:
    """What keeps a set of arrays from being the variables of a model: one line per case, by kind."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)

    def count(self) -> int:
        """Number of cases of all kinds."""
        return sum(len(lines) for lines in vars(self).values())

    def message(self, what: str) -> str:
        """All cases as text, at most ``_LINES`` of each kind, under a first line that starts with ``what``."""
        kinds = {kind.replace("_", " "): lines for kind, lines in vars(self).items() if lines}
        text = [f"{what}: " + ", ".join(f"{len(lines)} {kind}" for kind, lines in kinds.items())]
        for kind, lines in kinds.items():
            text += [f"  {kind}:", *(f"    {line}" for line in lines[:_LINES])]
            text += [f"    ... and {len(lines) - _LINES} more"] if len(lines) > _LINES else []
        return "\n".join(text)


class Tensor(NamedTuple):
    """A tensor of a checkpoint: the name in the file, the name that rules see, the numbers, and if it lies outside."""

    source: str
    name: str
    array: np.ndarray
    outside: bool = False

    def __str__(self) -> str:
        return f"{self.source} {_shape(self.array)}"


@dataclass(frozen=True)
class Conversion:
    """Arrays in the model's layout.

    Attributes:
      arrays: by path; contiguous, in the model's element type.
      sources: name in the checkpoint of each path.
      dropped: names in the checkpoint that the model has no use for: batch counters, tensors that rules say so of, and
        what lies outside of the container (an optimiser state).
      container: prefix of the names that were used, such as ``params.``; empty for a flat state dict.
    """

    arrays: dict[str, np.ndarray]
    sources: dict[str, str]
    dropped: tuple[str, ...]
    container: str


def expected_shapes(model: Owner) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and element type of each variable of a model by path, without computing any."""
    return flatten(jax.eval_shape(model.init, jax.random.key(0)))


def flatten(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Nested variables as ``{'params/conv1/kernel': ...}``."""
    return dict(flax.traverse_util.flatten_dict(variables, sep="/"))


def unflatten(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``flatten``."""
    return flax.traverse_util.unflatten_dict(dict(arrays), sep="/")


def apply_rules(rules: Iterable[Rule], tensors: Mapping[str, np.ndarray], expected: Shapes) -> Conversion:
    """Convert a checkpoint, completely or not at all.

    Args:
      rules: the table.
      tensors: arrays by dotted name, as from ``torch_file.read_tensors``.
      expected: result of ``expected_shapes``.

    Raises:
      CheckpointError: one message with all missing, unexpected, mis-shaped, ambiguous and non-finite tensors.
    """
    conversion, problems = match_rules(rules, tensors, expected)
    if problems.count():
        raise CheckpointError(problems.message("the tensors do not fit the model"))
    return conversion


def match_rules(
    rules: Iterable[Rule], tensors: Mapping[str, np.ndarray], expected: Shapes
) -> tuple[Conversion, Problems]:
    """Like ``apply_rules``, but returns the problems next to what could be converted."""
    rules, problems = tuple(rules), Problems()
    container, kept = _select_container(rules, tensors)
    claims: dict[str, list[tuple[Tensor, Rule]]] = {}
    for tensor in kept:
        hits = [(rule.path and match.expand(rule.path), rule) for rule in rules if (match := _match(rule, tensor))]
        for path, rule in hits:
            if path is not None:
                claims.setdefault(path, []).append((tensor, rule))
        if not hits:
            problems.unexpected.append(str(tensor))
        elif len(hits) > 1:
            places = ", ".join(path or "nothing" for path, _ in hits)
            problems.ambiguous.append(f"{tensor} fits several rules: {places}")
    arrays, sources = {}, {}
    for path, claimants in claims.items():
        tensor, rule = claimants[0]
        if len(claimants) > 1:
            problems.ambiguous.append(f"{path} is given by " + " and ".join(str(tensor) for tensor, _ in claimants))
        sources[path] = tensor.source
        arrays[path] = _converted(rule.transform(tensor.array), expected.get(path))
    compare(arrays, expected, problems, sources)
    used = set(sources.values())
    dropped = tuple(name for name in tensors if name not in used)
    return Conversion(arrays, sources, dropped, container), problems


def compare(
    arrays: Mapping[str, np.ndarray], expected: Shapes, problems: Problems, sources: Mapping[str, str] | None = None
) -> None:
    """Add to ``problems`` whatever keeps ``arrays`` (by path) from being the variables ``expected``."""
    names = {path: f"{source} -> {path}" for path, source in (sources or {}).items()}
    problems.missing += [f"{path} {_shape(spec)}" for path, spec in expected.items() if path not in arrays]
    for path, array in arrays.items():
        name = f"{names.get(path, path)} {_shape(array)}"
        spec = expected.get(path)
        if spec is None:
            problems.unexpected.append(name)
        elif array.shape != spec.shape or array.dtype != spec.dtype:
            problems.wrong_shape.append(f"{name} {array.dtype}, the model has {_shape(spec)} {spec.dtype}")
        elif (bad := int(np.sum(~np.isfinite(array)))) > 0:
            problems.not_finite.append(f"{name} has {bad} NaN or infinite numbers")


def _shape(array: Any) -> str:
    """A shape as (50, 1, 7, 7)."""
    return "(" + ", ".join(map(str, array.shape)) + ")"


def _converted(array: np.ndarray, spec: jax.ShapeDtypeStruct | None) -> np.ndarray:
    """Contiguous, and in the model's element type if both are real floating-point types."""
    if spec is not None and np.issubdtype(spec.dtype, np.floating) and jax.numpy.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, which is reported
            array = array.astype(spec.dtype)
    return np.array(array, order="C")


def _select_container(rules: tuple[Rule, ...], tensors: Mapping[str, np.ndarray]) -> tuple[str, list[Tensor]]:
    """The container whose tensors fit most rules (the outermost, of equals), and its tensors without counters.

    Tensors outside of it that rules ask for come first.
    """
    stripped = {name: ".".join(part for part in name.split(".") if part != _WRAPPER) for name in tensors}
    prefixes = {""}
    for name in stripped.values():
        prefix = ""
        for part in name.split(".")[:-1]:
            if part not in CONTAINERS:
                break
            prefix += f"{part}."
            prefixes.add(prefix)

    def inside(prefix: str) -> list[Tensor]:
        return [
            Tensor(source, name.removeprefix(prefix), tensors[source])
            for source, name in stripped.items()
            if name.startswith(prefix) and name.rpartition(".")[2] != _COUNTER
        ]

    def fitting(prefix: str) -> int:
        return sum(any(_match(rule, tensor) for rule in rules) for tensor in inside(prefix))

    best = max(sorted(prefixes, key=len), key=fitting)
    beside = [Tensor(source, name, tensors[source], outside=True) for source, name in stripped.items()]
    wanted = [t for t in beside if any(_match(rule, t) for rule in rules)]
    taken = {tensor.source for tensor in wanted}
    return best, wanted + [tensor for tensor in inside(best) if tensor.source not in taken]


def _match(rule: Rule, tensor: Tensor) -> re.Match | None:
    return re.fullmatch(rule.pattern, tensor.name) if rule.outside == tensor.outside else None
