"""L-BFGS for each image of a batch, against PyTorch's for one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli
from nriqa_jax.attacks import lbfgs

torch = pytest.importorskip("torch")


def lbfgs_of_torch(function, start, step_size, steps):
    values = torch.tensor(start, requires_grad=True)
    rule, trace = torch.optim.LBFGS([values], lr=step_size, max_iter=1, history_size=2), []

    def closure():
        rule.zero_grad()
        loss = function(values)
        loss.backward()
        return loss

    for _ in range(steps):
        rule.step(closure)
        trace.append(values.detach().numpy().copy())
    return np.stack(trace)


def test_each_image_takes_its_own_branches():
    """Long and short first steps, no curvature, negative curvature, no gradient, no slope, and a curved valley."""
    rows = ((10.0, 1.0), (1e-3, 0.5), (0.0, 0.3), (-1.0, 0.4), (0.0, 0.0), (0.0, 1e-6), (2.0, 0.1))
    starts = np.random.default_rng(0).normal(size=(len(rows), 2, 3, 1))

    def function(library, values, curvature, slope):
        return (
            library.sum(0.5 * curvature * values**2 + slope * values)
            + curvature * values[0, 0, 0] ** 2 * values[1, 1, 0] ** 2
        )

    expected = [
        lbfgs_of_torch(lambda values, row=row: function(torch, values, *row), start, 0.7, 8)
        for row, start in zip(rows, starts)
    ]
    with cli.double_precision():
        gradient = jax.vmap(jax.grad(lambda values, curvature, slope: function(jnp, values, curvature, slope)))
        rule, theta = lbfgs.lbfgs_descent(0.7), jnp.asarray(starts)
        state, trace = rule.init(theta), []
        for _ in range(8):
            updates, state = rule.update(gradient(theta, *jnp.asarray(rows).T), state, theta)
            theta = theta + updates
            trace.append(np.asarray(theta))
    np.testing.assert_allclose(np.stack(trace, 1), np.stack(expected), rtol=1e-7, atol=1e-12)
