"""Weights laid out for speed: kernels in their fastest form and, for inference, batch norm folded into convolutions.

Both compute the same function. What `prepare` gives is made once per run, for inference and its gradients with respect
to images, and not for training: statistics and scales are gone. `lay_out` is part of a training step.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from nriqa_jax.grouped import BundledKernel, Dense, bundle
from nriqa_jax.layers import BatchNorm, Conv, Kernel, LaidOut
from nriqa_jax.patches import PatchKernel
from nriqa_jax.winograd import transform_kernel

Variables = Mapping[str, Any]
Path = tuple[str, ...]

_WINOGRAD_CHANNELS = 64  # from so many on, on CPUs, fewer products outweigh the transforms
_SMALL_MAP = 7 * 7  # up to so many pixels, Winograd kernels, which are larger, are no faster than products of patches


class Site(NamedTuple):
    """A convolution in its network.

    Attributes:
      conv: the module.
      fan_in: channels that each output is computed from.
      pixels: height times width of the largest map that it gets.
    """

    conv: Conv
    fan_in: int
    pixels: int

    @property
    def small(self) -> bool:
        """Whether all maps that it gets are small."""
        return self.pixels <= _SMALL_MAP

    @property
    def suits_winograd(self) -> bool:
        """Whether it is what `winograd.convolve` computes, with enough channels."""
        conv = self.conv
        plain = (conv.window, conv.stride, conv.padding, conv.dilation, conv.groups) == (3, 1, 1, 1, 1)
        return plain and min(self.fan_in, conv.features) >= _WINOGRAD_CHANNELS


class Structure(NamedTuple):
    """What a forward pass shows of a network.

    Attributes:
      convolutions: all of them, by path.
      norms: path of the batch norm that takes a convolution's output, by the path of the convolution.
      epsilons: of the batch norms, by path.
    """

    convolutions: dict[Path, Site]
    norms: dict[Path, Path]
    epsilons: dict[Path, float]


def prepare(
    network: nn.Module,
    variables: Variables,
    view_shape: tuple[int, ...],
    *,
    dtype: Any = jnp.float32,
    platform: str | None = None,
) -> Variables:
    """Lay the weights of a network out for inference.

    Args:
      network: module built from ``nriqa_jax.layers``. Nothing but the batch norm may use the output of a convolution
        that a batch norm follows: that other use would get the folded output, and nothing here would notice.
      variables: its variables, as initialised or converted.
      view_shape: shape of one input, without the batch axis.
      dtype: number format to compute in.
      platform: "cpu", "gpu" or "tpu"; by default the one that JAX uses.
    """
    structure = trace(network, variables, view_shape)

    def folded(variables: Variables) -> Variables:
        variables = _with_fast_kernels(fold(variables, structure), structure, platform, _strided_or_small)
        return jax.tree.map(lambda x: x.astype(dtype), variables)

    return jax.jit(folded)(variables)


def lay_out(
    network: nn.Module,
    variables: Variables,
    view_shape: tuple[int, ...],
    *,
    twice: bool = False,
    platform: str | None = None,
) -> Variables:
    """Kernels in their fastest form, as a differentiable function of the weights; batch norm stays as it is.

    Args:
      network: as of `prepare`.
      variables: as of `prepare`; may be traced.
      view_shape: as of `prepare`.
      twice: whether gradients with respect to inputs will be differentiated by the weights.
      platform: as of `prepare`.
    """
    return _with_fast_kernels(variables, trace(network, variables, view_shape), platform, _all if twice else _strided)


def trace(network: nn.Module, variables: Variables, view_shape: tuple[int, ...]) -> Structure:
    """Find convolutions and the batch norms that follow them, from the flow of data in an abstract forward pass.

    A pair counts where the batch norm takes every output of the convolution, and nothing else.
    """
    found = Structure({}, {}, {})
    calls: Counter[Path] = Counter()
    takers: dict[Path, list[Path]] = defaultdict(list)  # batch norms, for each output that they take
    makers: dict[int, tuple[Array, Path]] = {}  # the array is kept, so that its id stays its own

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module, output = context.module, call(*args, **kwargs)
        calls[module.path] += 1
        if isinstance(module, Conv):
            _, height, width, channels = (args[0] if args else kwargs["x"]).shape
            site = Site(module, channels // module.groups, height * width)
            before = found.convolutions.get(module.path, site)
            found.convolutions[module.path] = max(before, site, key=lambda site: site.pixels)
            makers[id(output)] = (output, module.path)
        elif isinstance(module, BatchNorm) and not module.has_variable("params", "folded"):
            found.epsilons[module.path] = module.epsilon
            taken = args[0] if args else kwargs["x"]
            if id(taken) in makers:
                takers[makers[id(taken)][1]].append(module.path)
        return output

    def forward(variables: Variables, views: Array) -> Any:
        with nn.intercept_methods(watch):
            return network.apply(variables, views)

    dtype = jnp.result_type(*jax.tree.leaves(variables))
    jax.eval_shape(forward, variables, jax.ShapeDtypeStruct((1, *view_shape), dtype))
    for conv, norms in takers.items():
        if norms == [norms[0]] * calls[conv] and calls[norms[0]] == calls[conv]:
            found.norms[conv] = norms[0]
    return found


def fold(variables: Variables, structure: Structure) -> Variables:
    """Turn (convolution, batch norm) pairs into convolutions with a bias; exact up to rounding.

    Collections other than parameters and statistics stay as they are.
    """
    params, stats = variables["params"], variables.get("batch_stats", {})
    for conv_path, norm_path in structure.norms.items():
        conv, norm, stat = _at(params, conv_path), _at(params, norm_path), _at(stats, norm_path)
        gain = norm["scale"] * jax.lax.rsqrt(stat["var"] + structure.epsilons[norm_path])
        bias = (conv.get("bias", 0.0) - stat["mean"]) * gain + norm["bias"]
        params = _replaced(params, conv_path, {"kernel": conv["kernel"] * gain, "bias": bias})
        params = _replaced(params, norm_path, {"folded": ()})
        stats = _replaced(stats, norm_path, {})
    folded = {**variables, "params": params, "batch_stats": stats}
    return folded if jax.tree.leaves(stats) else {name: folded[name] for name in folded if name != "batch_stats"}


def _with_fast_kernels(
    variables: Variables, structure: Structure, platform: str | None, to_patches: Callable[[Site], bool]
) -> Variables:
    if (platform or jax.default_backend()) != "cpu":
        return variables
    params = variables["params"]
    for path, site in structure.convolutions.items():
        layer = _at(params, path)
        params = _replaced(params, path, {**layer, "kernel": _fast_kernel(layer["kernel"], site, to_patches)})
    return {**variables, "params": params}


def _fast_kernel(kernel: Kernel, site: Site, to_patches: Callable[[Site], bool]) -> Kernel:
    """A kernel as CPUs want it."""
    if isinstance(kernel, LaidOut):
        return kernel
    patched = site.conv.window > 1 and site.conv.dilation == 1 and to_patches(site)
    if site.conv.groups > 1:
        bundles = bundle(kernel, site.conv.groups).bundles
        return BundledKernel(tuple(map(_as_patches, bundles)) if patched else bundles)
    if patched:
        return _as_patches(kernel)
    return transform_kernel(kernel) if site.suits_winograd else kernel


def _as_patches(kernel: Dense) -> PatchKernel:
    return kernel if isinstance(kernel, PatchKernel) else PatchKernel(kernel)


def _strided(site: Site) -> bool:
    """For gradients by weights, strided ones are: that of a 7x7 stem takes XLA six times as long as the product."""
    return site.conv.stride > 1


def _strided_or_small(site: Site) -> bool:
    """For gradients by images alone, strided and small ones without groups are: XLA would copy their kernels."""
    return site.conv.groups == 1 and (_strided(site) or site.small)


def _all(site: Site) -> bool:
    """For derivatives by weights of gradients by images, all are that are not faster yet."""
    return not site.suits_winograd


def _at(tree: Variables, path: Path) -> Variables:
    for name in path:
        tree = tree[name]
    return tree


def _replaced(tree: Variables, path: Path, value: Any) -> Variables:
    if not path:
        return value
    return {**tree, path[0]: _replaced(tree[path[0]], path[1:], value)}
