"""LPIPS and DISTS in PyTorch, written from their papers, with weights named as by their authors; narrow models."""

import dataclasses
import functools

import numpy as np
import pytest

from experiments.catalog import DISTANCES
from experiments.contenders.weights import draw_all
from weights_convert.convert import convert_tensors
from weights_convert.rules import unflatten

NAMES = ("lpips_vgg", "lpips_alex", "dists")
ALL = pytest.mark.parametrize("name", NAMES)
VGG = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions of each stage
VGG_POOLS = (4, 9, 16, 23)
ALEX = {0: (1, 11, 4, 2), 3: (3, 5, 1, 2), 6: (6, 3, 1, 1), 8: (4, 3, 1, 1), 10: (4, 3, 1, 1)}
WIDTHS = {"lpips_vgg": (1, 2, 4, 8, 8), "lpips_alex": (1, 3, 6, 4, 4), "dists": (1, 2, 4, 8, 8)}
SCALING = ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
SIDES = {"lpips_vgg": (33, 50), "lpips_alex": (70, 48), "dists": (33, 50)}


def stages(name):
    return ((0,), (3,), (6,), (8,), (10,)) if name == "lpips_alex" else VGG


def convolutions(name, width):
    """Name, number of the stage and shape of each convolution of a backbone, as the authors' networks have them."""
    inputs = 3
    for stage, numbers in enumerate(stages(name), 1):
        outputs = width * WIDTHS[name][stage - 1]
        for number in numbers:
            window = ALEX[number][1] if name == "lpips_alex" else 3
            prefix = f"stage{stage}" if name == "dists" else f"net.slice{stage}"
            yield f"{prefix}.{number}", number == numbers[-1], (outputs, inputs, window, window)
            inputs = outputs


def make_state(name, width=4):
    """A state dict of the authors' network; the first feature of each map always responds."""
    shapes, last = {}, []
    for prefix, ends, shape in convolutions(name, width):
        shapes |= {f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]}
        last += [f"{prefix}.bias"] if ends else []
    state = draw_all(shapes)
    for bias in last:
        state[bias][0] += 20
    channels = [width * multiple for multiple in WIDTHS[name]]
    if name == "dists":
        for vector in ("alpha", "beta"):
            state[vector] = 0.1 + 0.1 * draw_all({vector: (1, 3 + sum(channels), 1, 1)})[vector]
        hann = np.outer([1, 2, 1], [1, 2, 1]) / 16
        for pool, count in zip(VGG_POOLS, channels):
            stage = VGG_POOLS.index(pool) + 2
            state[f"stage{stage}.{pool}.filter"] = np.broadcast_to(hann, (count, 1, 3, 3)).astype(np.float32)
        return state | {key: as_maps(value) for key, value in zip(("mean", "std"), IMAGENET)}
    heads = {f"lin{i}.model.1.weight": (1, count, 1, 1) for i, count in enumerate(channels)}
    heads = {key: np.abs(array) for key, array in draw_all(heads).items()}
    copies = {key.replace("lin", "lins."): array for key, array in heads.items()}
    scaling = {f"scaling_layer.{key}": as_maps(value) for key, value in zip(("shift", "scale"), SCALING)}
    return state | heads | copies | scaling


def as_maps(values):
    return np.float32(values).reshape(1, 3, 1, 1)


def normalized(x, statistics):
    """In the precision of the input; the buffers of a network are float32."""
    import torch

    mean, std = (torch.tensor(values, dtype=x.dtype).reshape(1, 3, 1, 1) for values in statistics)
    return (x - mean) / std


@functools.lru_cache
def narrow(name, width=4):
    distance = DISTANCES[name]()
    network = distance.network
    return dataclasses.replace(distance, network=network.clone(net=network.net.clone(width=width)))


def converted(name, state, width=4):
    return unflatten(convert_tensors(state, narrow(name, width))[1].arrays)


def torch_features(name, state, x):
    """The maps of the backbone in PyTorch."""
    import torch.nn.functional as F

    maps = []
    for stage, numbers in enumerate(stages(name), 1):
        if name == "dists" and stage > 1:
            kernel = state[f"stage{stage}.{VGG_POOLS[stage - 2]}.filter"]
            x = (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
        elif name == "lpips_vgg" and stage > 1:
            x = F.max_pool2d(x, 2, 2)
        elif name == "lpips_alex" and stage in (2, 3):
            x = F.max_pool2d(x, 3, 2)
        for number in numbers:
            _, _, stride, padding = ALEX[number] if name == "lpips_alex" else (0, 0, 1, 1)
            prefix = f"stage{stage}.{number}" if name == "dists" else f"net.slice{stage}.{number}"
            x = F.relu(F.conv2d(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"], stride, padding))
        maps.append(x)
    return maps


def torch_lpips(name, state, x, y):
    import torch

    total = 0
    scaled = (normalized(2 * z - 1, SCALING) for z in (x, y))
    for index, pair in enumerate(zip(*(torch_features(name, state, z) for z in scaled))):
        units = [f / (torch.sqrt((f**2).sum(1, keepdim=True)) + 1e-10) for f in pair]
        weighted = torch.nn.functional.conv2d((units[0] - units[1]) ** 2, state[f"lin{index}.model.1.weight"])
        total = total + weighted.mean((1, 2, 3))
    return total


def torch_dists(name, state, x, y):
    features = [[z, *torch_features(name, state, normalized(z, IMAGENET))] for z in (x, y)]
    total, start = state["alpha"].sum() + state["beta"].sum(), 0
    similarity = 0
    for a, b in zip(*features):
        part = slice(start, start := start + a.shape[1])
        alpha, beta = (state[vector][0, part, 0, 0] / total for vector in ("alpha", "beta"))
        a_mean, b_mean = a.mean((2, 3)), b.mean((2, 3))
        a_var, b_var = ((z - z.mean((2, 3), keepdim=True)).square().mean((2, 3)) for z in (a, b))
        covariance = (a * b).mean((2, 3)) - a_mean * b_mean
        texture = (2 * a_mean * b_mean + 1e-6) / (a_mean**2 + b_mean**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (a_var + b_var + 1e-6)
        similarity = similarity + texture @ alpha + structure @ beta
    return 1 - similarity


def theirs(name, state, attacked, images, dtype="float64"):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    state = {key: torch.tensor(array, dtype=kind) for key, array in state.items()}
    x, y = (torch.tensor(z, dtype=kind).permute(0, 3, 1, 2) for z in (attacked, images))
    x = x.contiguous().requires_grad_()
    values = (torch_dists if name == "dists" else torch_lpips)(name, state, x, y.contiguous())
    (values * torch.arange(1, 1 + len(values))).sum().backward()
    return values.detach().numpy(), x.grad.permute(0, 2, 3, 1).numpy()
