"""Whole protocols against pyiqa with the same random weights, where it is installed: scores and pixel gradients.

In float64, where no rounding decides a ReLU; LIQE, which has none and computes in float32 whatever it gets, in that.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyiqa_offline import create
from random_weights import randomize, tensors_of

from experiments.catalog import MODELS
from nriqa_jax.models.maniqa import PYIQA
from weights_convert.convert import convert_tensors
from weights_convert.rules import unflatten

pytestmark = [pytest.mark.slow, pytest.mark.full]

FEW = 3  # crops of MANIQA, whose 20 take more than 20 GB with gradients

# Model, options of pyiqa's metric, protocol of ours.
ROWS = [
    ("hyperiqa", {}, "pyiqa"),
    ("dbcnn", {"pretrained": False}, "published"),
    ("maniqa", {"test_sample": FEW}, dataclasses.replace(PYIQA, views=partial(PYIQA.views, count=FEW))),
    ("metaiqa", {"pretrained": False}, "published"),
    ("liqe", {"pretrained": False}, "pyiqa"),
    ("liqe_mix", {"pretrained": False, "mtl": True}, "pyiqa"),
]


def photograph(height, width):
    rng = np.random.default_rng(0)
    smooth = jax.image.resize(jnp.asarray(rng.random((1, 7, 9, 3)), jnp.float32), (1, height, width, 3), "cubic")
    return np.asarray(jnp.clip(smooth + 0.03 * rng.normal(size=smooth.shape), 0, 1), np.float32)


@pytest.mark.parametrize(("name", "options", "protocol"), ROWS, ids=[row[0] for row in ROWS])
def test_scores_and_gradients(name, options, protocol, monkeypatch, tmp_path):
    net = randomize(create(name, monkeypatch, tmp_path, **options)).requires_grad_(False)
    import torch

    if hasattr(net, "text_features"):  # which pyiqa computes when it builds the network
        with torch.no_grad():
            net.text_features = net.get_text_features(net.joint_texts)
    model = MODELS[name]()
    if isinstance(protocol, str):
        model = model.with_protocol(protocol)
    else:
        model = dataclasses.replace(model, preprocess=protocol)
    _, conversion = convert_tensors(tensors_of(net), model)
    dtype = "float32" if name.startswith("liqe") else "float64"
    net.to(getattr(torch, dtype))
    with jax.enable_x64(dtype == "float64"):
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), unflatten(conversion.arrays))
        score = model.score_fn(model.prepare(variables, dtype))
        value = jax.jit(jax.value_and_grad(lambda score, x: score(x)[0], argnums=1))
        for size in ((300, 401), (224, 224)):
            image = photograph(*size)
            x = torch.tensor(image, dtype=getattr(torch, dtype)).permute(0, 3, 1, 2).contiguous().requires_grad_()
            expected = net(x).squeeze()
            expected.backward()
            expected_gradient = x.grad.permute(0, 2, 3, 1).numpy()
            found, gradient = value(score, jnp.asarray(image, dtype))
            assert float(found) == pytest.approx(expected.item(), rel=1e-4), size
            assert np.linalg.norm(gradient - expected_gradient) < 1e-3 * np.linalg.norm(expected_gradient), size
