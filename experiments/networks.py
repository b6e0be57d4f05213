"""Files of networks that draw a change for each image: the weights of a U-Net, and how they were trained."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from experiments.errors import UserError
from nriqa_jax.attacks import unet
from nriqa_jax.types import Images
from weights_convert import store
from weights_convert.rules import CheckpointError, Problems, compare, flatten, unflatten

EXTENSIONS = (".safetensors",)
_WIDTHS = "widths"


class Network(NamedTuple):
    """A trained network.

    Attributes:
      draw: pytree callable from images to values in [-1, 1].
      side: sides that it takes are multiples of this, in pixels.
    """

    draw: Callable[[Images], Images]
    side: int

    def settings(self) -> dict[str, Any]:
        """What it sets of an attack by it."""
        return {"network": self.draw, "side": self.side}


def save_network(path: Path, network: unet.UNet, params: PyTree, metadata: Mapping[str, Any]) -> None:
    """Write a network, completely or not at all, making its folder if needed.

    Args:
      path: a ``.safetensors`` file.
      network: what the weights belong to.
      params: the weights.
      metadata: how they were made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    store.save_variables(path, params, {**metadata, _WIDTHS: list(network.widths)})


def load_network(path: Path) -> Network:
    """The network in a file.

    Raises:
      UserError: when the file holds none, or not the one it says.
    """
    if not path.is_file():
        raise UserError(f"--network={path} is not a file; give a .safetensors file of a network that draws changes")
    try:
        metadata, arrays = store.read(path)
    except CheckpointError as error:
        raise UserError(f"--network={error}") from error
    widths, problems = metadata.get(_WIDTHS), Problems()
    if not isinstance(widths, list) or not widths or not all(isinstance(width, int) and width > 0 for width in widths):
        raise UserError(f"--network={path} is not of a network that experiments.train_universal made")
    network = unet.UNet(tuple(widths))
    compare(arrays, flatten(jax.eval_shape(partial(unet.init, network), jax.random.key(0))), problems)
    if problems.count():
        summary = problems.message("the tensors do not fit its widths").partition("\n")[0]
        raise UserError(f"--network={path}: {summary}")
    return Network(unet.drawing(network, jax.device_put(unflatten(arrays))), unet.multiple(network))
