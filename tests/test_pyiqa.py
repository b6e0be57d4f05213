"""Whole protocols against pyiqa with the same random weights, where it is installed: scores and pixel gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyiqa_offline import create
from random_weights import randomize, tensors_of

from experiments.catalog import MODELS
from weights_convert.convert import convert_tensors
from weights_convert.rules import unflatten

pytestmark = [pytest.mark.slow, pytest.mark.full]

# Model, metric of pyiqa, its options, protocol of ours.
ROWS = [
    ("hyperiqa", "hyperiqa", {}, "pyiqa"),
    ("dbcnn", "dbcnn", {"pretrained": False}, "published"),
    ("maniqa", "maniqa", {}, "pyiqa"),
    ("metaiqa", "metaiqa", {"pretrained": False}, "published"),
    ("liqe", "liqe", {"pretrained": False}, "pyiqa"),
    ("liqe_mix", "liqe_mix", {"pretrained": False}, "pyiqa"),
]


def photograph(height, width):
    rng = np.random.default_rng(0)
    smooth = jax.image.resize(jnp.asarray(rng.random((1, 7, 9, 3)), jnp.float32), (1, height, width, 3), "cubic")
    return np.asarray(jnp.clip(smooth + 0.03 * rng.normal(size=smooth.shape), 0, 1), np.float32)


@pytest.mark.parametrize(("name", "metric", "options", "protocol"), ROWS, ids=[row[0] for row in ROWS])
def test_scores_and_gradients(name, metric, options, protocol, monkeypatch, tmp_path):
    net = randomize(create(metric, monkeypatch, tmp_path, **options)).requires_grad_(False)
    import torch

    if hasattr(net, "text_features"):  # which pyiqa computes when it builds the network
        with torch.no_grad():
            net.text_features = net.get_text_features(net.joint_texts)
    model = MODELS[name]().with_protocol(protocol)
    _, conversion = convert_tensors(tensors_of(net), model)
    score = model.score_fn(model.prepare(jax.device_put(unflatten(conversion.arrays))))
    value = jax.jit(jax.value_and_grad(lambda score, x: score(x)[0], argnums=1))
    for size in ((300, 401), (224, 224)):
        image = photograph(*size)
        x = torch.tensor(image).permute(0, 3, 1, 2).contiguous().requires_grad_()
        expected = net(x).squeeze()
        expected.backward()
        expected_gradient = x.grad.permute(0, 2, 3, 1).numpy()
        found, gradient = value(score, jnp.asarray(image))
        assert float(found) == pytest.approx(expected.item(), rel=1e-4), size
        assert np.linalg.norm(gradient - expected_gradient) < 2e-2 * np.linalg.norm(expected_gradient), size
