"""Names and shapes of the weights of a network as JSON, for programs that must not import torch themselves.

python -m weights_convert.torch_graphs.shapes hyperiqa
"""

import json
import sys

import torch

from weights_convert.torch_graphs import build

_CONSTANTS = {"attn_mask", "mean", "std"}


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of trained numbers and running statistics."""
    state = network.state_dict().items()
    return {
        name: tuple(tensor.shape)
        for name, tensor in state
        if tensor.is_floating_point() and name.rpartition(".")[2] not in _CONSTANTS
    }


if __name__ == "__main__":
    with torch.device("meta"):
        print(json.dumps(shapes_of(build(sys.argv[1]))))
