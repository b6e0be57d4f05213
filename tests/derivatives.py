"""Compare a function with references in value and in first and second derivatives."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, settings

TOLERANCES = {"float32": 1e-5, "float64": 1e-11}
few = functools.partial(  # new shapes compile for long, so a failing example is shown as it was found
    settings, deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
)


def draws(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=shape) for shape in shapes)


def derivatives(f, args, cotangent, directions):
    """Value, reverse and forward mode, and the Hessian of the sum of cubes times the directions, in both orders."""
    everywhere = tuple(range(len(args)))

    def slopes(*args):
        return jax.grad(lambda *args: jnp.sum(f(*args) ** 3), everywhere)(*args)

    def slope(*args):
        return sum(jnp.vdot(g, d) for g, d in zip(slopes(*args), directions))

    value, pull = jax.vjp(f, *args)
    forward = jax.jvp(f, args, directions)[1]
    return value, pull(cotangent), forward, jax.grad(slope, everywhere)(*args), jax.jvp(slopes, args, directions)[1]


def torch_derivatives(f, args, cotangent, directions):
    torch = pytest.importorskip("torch")
    args, directions = (tuple(map(torch.from_numpy, arrays)) for arrays in (args, directions))
    forward = torch.func.jvp(f, args, directions)[1]
    args = tuple(arg.clone().requires_grad_() for arg in args)
    value = f(*args)
    backward = torch.autograd.grad(value, args, torch.from_numpy(cotangent), retain_graph=True)
    slopes = torch.autograd.grad((value**3).sum(), args, create_graph=True)
    hessian = torch.autograd.grad(sum((g * d).sum() for g, d in zip(slopes, directions)), args)
    return jax.tree.map(lambda t: t.detach().numpy(), (value, backward, forward, hessian, hessian))


def assert_close(found, expected, tolerance):
    """Relative to the largest magnitude."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))


def check(f, by_torch, args, reference=None, dtype="float64", tolerance=None):
    """Compare all derivatives of a function with those of the references, which compute in float64."""
    with jax.enable_x64(True):
        shape = jax.eval_shape(f, *(jnp.asarray(arg, dtype) for arg in args)).shape
        cotangent, *directions = draws(shape, *(arg.shape for arg in args), seed=1)
        inputs = (args, cotangent, tuple(directions))
        ours = jax.jit(functools.partial(derivatives, f))(*jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs))
        expected = [torch_derivatives(by_torch, *inputs)] if by_torch else []
        if reference:
            expected.append(jax.jit(functools.partial(derivatives, reference))(*inputs))
        assert {y.dtype.name for y in jax.tree.leaves(ours)} == {dtype}
        close = functools.partial(assert_close, tolerance=tolerance or TOLERANCES[dtype])
        for other in expected:
            jax.tree.map(close, ours, other)


def check_network(model, variables, graph, views):
    """The network of a model and its PyTorch graph, in float64."""
    double = copy.deepcopy(graph).double()
    check(
        lambda x: model.network.apply(jax.tree.map(jnp.float64, variables), x),
        lambda x: double(x.permute(0, 3, 1, 2)),
        (views.astype(np.float64),),
        tolerance=1e-8,
    )
