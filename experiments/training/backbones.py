"""The part of a network that was trained for something else: which parameters it has, and how files of it alone fit."""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from experiments.errors import UserError
from nriqa_jax.models.model import Model, Variables
from weights_convert.pickle_names import CheckpointError
from weights_convert.rules import CONTAINERS, expected_shapes, flatten, match_rules, unflatten
from weights_convert.tables import LAYOUTS
from weights_convert.torch_file import read_tensors

_WRAPPERS = re.compile(rf"^((?:{'|'.join(CONTAINERS)}|module)\.)+")


class Backbone(NamedTuple):
    """The backbone of a model.

    Attributes:
      parts: prefixes of the parameters that learn at the backbone's rate.
      filled: prefixes of the variables that a file of the backbone alone gives.
      renames: patterns of the names of its tensors (torchvision's or timm's), and their names in a checkpoint of the
        model; the first that fits counts. Tensors that none fits, of a classifier, are not used.
    """

    parts: tuple[str, ...]
    filled: tuple[str, ...]
    renames: tuple[tuple[str, str], ...]

    def renamed(self, name: str) -> str | None:
        """Name in a checkpoint of the model; None for a tensor that it has no use for."""
        name = _WRAPPERS.sub("", name)
        matches = ((re.fullmatch(pattern, name), template) for pattern, template in self.renames)
        return next((match.expand(template) for match, template in matches if match), None)


class Filled(NamedTuple):
    """Weights with a backbone from elsewhere.

    Attributes:
      variables: the numbers.
      sha256: of the backbone's file.
    """

    variables: Variables
    sha256: str


def with_backbone(model: Model, variables: Variables, path: Path, backbone: Backbone) -> Filled:
    """Weights whose backbone comes from a PyTorch file of it alone, such as torchvision's for ImageNet.

    Raises:
      UserError: when the file does not fit.
    """
    try:
        tensors = read_tensors(path)
    except CheckpointError as error:
        raise UserError(f"--backbone={error}") from error
    renamed = {new: tensor for name, tensor in tensors.items() if (new := backbone.renamed(name)) is not None}
    every = expected_shapes(model)
    wanted = {path: shape for path, shape in every.items() if path.partition("/")[2].startswith(backbone.filled)}
    conversion, problems = match_rules(LAYOUTS[model.name]["original"].rules, renamed, wanted)
    if problems.count():
        summary = problems.message(f"the tensors do not fit the backbone of {model.name}").partition("\n")[0]
        raise UserError(f"--backbone={path}: {summary}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Filled(unflatten({**flatten(variables), **conversion.arrays}), digest)


_SEQUENCE = tuple((rf"layer{i}\.(.+)", rf"features.{i + 3}.\1") for i in range(1, 5))
_ALL_BUT_CLASSIFIER = r"(?!fc\.)(.+)"

HYPERIQA = Backbone(("res/", "lda"), ("res/",), ((_ALL_BUT_CLASSIFIER, r"res.\1"),))
DBCNN = Backbone(("features1", "features2"), ("features1/",), ((r"features\.(.+)", r"features1.\1"),))
LINEARITY = Backbone(
    ("features/",),
    ("features/",),
    ((r"conv1\.(.+)", r"features.0.\1"), (r"bn1\.(.+)", r"features.1.\1"), *_SEQUENCE),
)
MANIQA = Backbone(("vit/",), ("vit/",), ((r"(.+)", r"vit.\1"),))
METAIQA = Backbone(("resnet_layer/", "fc/"), ("resnet_layer/", "fc/"), ((r"(.+)", r"resnet_layer.\1"),))
SPAQ = Backbone(("backbone/",), ("backbone/",), ((_ALL_BUT_CLASSIFIER, r"backbone.\1"),))
