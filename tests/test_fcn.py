"""The learned filter: parity with PyTorch, its variants, its files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import filters
from experiments.catalog import FILTERS
from experiments.errors import UserError
from nriqa_jax.defenses import fcn
from weights_convert import store

torch = pytest.importorskip("torch")


@pytest.fixture
def weights():
    """A state dict with the published names and shapes."""
    rng = np.random.default_rng(4)
    shapes = {"conv1": (64, 3, 3, 3), "conv2": (16, 64, 3, 3), "conv3": (3, 16, 3, 3)}
    state = {f"{name}.weight": rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": rng.normal(0, 0.1, shape[0]) for name, shape in shapes.items()}
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in state.items()}


def torch_filter(state, x, variant):
    """The network as its description reads."""
    functional = torch.nn.functional

    def conv(name, x):
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    h = conv("conv2", functional.leaky_relu(conv("conv1", x), 0.2))
    h = functional.instance_norm(h, eps=1e-5) if variant == "ref" else h
    h = conv("conv3", functional.leaky_relu(h, 0.2))
    return torch.clamp(x + h if variant == "residual" else torch.tanh(h), 0, 1)


@pytest.mark.parametrize("variant", FILTERS)
def test_filters_are_those_of_pytorch(variant, weights, images, keys, tmp_path):
    path = tmp_path / "fcn_mse.pth"
    torch.save({"model": weights}, path)
    network = FILTERS[variant]()
    found = filters.load(str(path), network.normalised, network.residual)
    assert sum(leaf.size for leaf in jax.tree.leaves(found.variables)) == 11_459
    x = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = torch_filter(weights, x, variant)
    direction = np.cos(np.arange(images.size)).reshape(images.shape).astype(np.float32)
    expected.backward(torch.from_numpy(direction.transpose(0, 3, 1, 2).copy()))
    purified, pull = jax.vjp(lambda images: found(images, keys), images)
    np.testing.assert_allclose(purified, expected.detach().numpy().transpose(0, 2, 3, 1), atol=2e-5)
    np.testing.assert_allclose(pull(direction)[0], x.grad.numpy().transpose(0, 2, 3, 1), atol=2e-4)
    assert float(jnp.min(purified)) >= 0
    assert float(jnp.max(purified)) <= 1


def test_a_residual_filter_starts_as_the_identity(images, keys):
    network = fcn.residual()
    start = fcn.LearnedFilter(fcn.init(network, jax.random.key(0)), network)
    np.testing.assert_array_equal(start(images, keys), images)
    other = fcn.LearnedFilter(fcn.init(fcn.nonorm(), jax.random.key(0)), fcn.nonorm())
    assert float(jnp.max(jnp.abs(other(images, keys) - images))) > 0.1


def test_files_keep_the_network(images, keys, tmp_path):
    for make in FILTERS.values():
        variables = fcn.init(make(), jax.random.key(1))
        filters.save(tmp_path / "new" / "f.safetensors", make(), variables, {"script": "test"})
        found = filters.load(str(tmp_path / "new" / "f.safetensors"))
        assert found.network == make()
        np.testing.assert_array_equal(found(images, keys), fcn.LearnedFilter(variables, make())(images, keys))


def test_wrong_files_are_refused_in_one_sentence(weights, tmp_path):
    variables = fcn.init(fcn.ref(), jax.random.key(0))
    del weights["conv2.bias"]
    torch.save(weights, tmp_path / "part.pth")
    (tmp_path / "text.safetensors").write_bytes(b"hello")
    filters.save(tmp_path / "nan.safetensors", fcn.ref(), jax.tree.map(lambda x: x * jnp.nan, variables), {})
    store.save_variables(tmp_path / "other.safetensors", variables, {"model": "cnniqa"})
    reasons = {
        "absent.pth": "is not a file",
        "part.pth": "do not fit the model: 1 missing",
        "text.safetensors": "not a sound safetensors file",
        "nan.safetensors": "do not fit: 6 not finite",
        "other.safetensors": "is not of a filter",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            filters.load(str(tmp_path / name))
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_the_embedded_filter_takes_back_a_part_of_what_it_has_not_seen(keys):
    """Signs at random, on a photograph that it was not trained on."""
    pixels = pytest.importorskip("skimage.data").astronaut()[:96, 200:296]
    clean = jnp.asarray(pixels[None], jnp.float32) / 255.0
    attacked = (clean + 10 / 255 * jnp.sign(jax.random.normal(jax.random.key(0), clean.shape))).clip(0.0, 1.0)
    purify = filters.load("embedded")

    def error(x):
        return float(jnp.mean((x - clean) ** 2))

    assert 10 * np.log10(1 / error(purify(clean, keys[:1]))) > 35.0
    assert error(purify(attacked, keys[:1])) < 0.9 * error(attacked)
