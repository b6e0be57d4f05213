"""One contract for every model of the catalog, and the published numbers of the trained one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from random_weights import with_weights
from zoo import NARROW, ZOO

from experiments.catalog import MODELS
from experiments.records import load_image
from nriqa_jax.models import cnniqa as cnniqa_file
from nriqa_jax.models.cnniqa import cnniqa
from nriqa_jax.types import ScoreFn
from weights_convert.convert import load_torch

KINDS = {  # one model of each kind of network and protocol
    (type(build().network), protocol.name): (name, protocol.name)
    for name, build in reversed(MODELS.items())
    for protocol in build().protocols
    if protocol.seeded is None  # "published" draws in the same way
}
COSTLY = {"maniqa": "grid", "hyperiqa": "published"}
NAMES = [  # the other protocols of the costliest models are run by make test-full
    pytest.param(*kind, marks=[pytest.mark.full] * (kind[1] != COSTLY.get(kind[0], kind[1]))) for kind in KINDS.values()
]
CONTRACT = pytest.mark.parametrize(("name", "protocol"), NAMES)


def narrow(name):
    """The model, with a narrow network where the zoo knows one; the contract is about what surrounds the network."""
    return ZOO[name].narrow_model() if name in NARROW else MODELS[name]()


@pytest.fixture(scope="module")
def scorers():
    made = {}

    def make(name, protocol):
        model = narrow(name).with_protocol(protocol)
        if name not in made:
            made[name] = model.prepare(with_weights(model)[1] if name in NARROW else model.init(jax.random.key(3)))
        return model, jax.jit(model.score_fn(made[name]))

    return make


def photographs(count):
    rng = np.random.default_rng(0)
    coarse = rng.random((count, 9, 8, 3))
    smooth = jax.image.resize(jnp.asarray(coarse, jnp.float32), (count, 72, 64, 3), "cubic")
    return jnp.clip(smooth + rng.normal(0, 0.03, smooth.shape), 0, 1).astype(jnp.float32)


@CONTRACT
def test_batch_invariance(scorers, name, protocol):
    _, score = scorers(name, protocol)
    images = photographs(3)
    scores = score(images)
    assert scores.shape == (3,)
    assert np.ptp(scores) > 1e-4
    np.testing.assert_allclose(scores, [score(images[i : i + 1])[0] for i in range(3)], rtol=2e-5)
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(score(images[order]), scores[order], rtol=2e-5)


@CONTRACT
def test_input_gradients_are_finite_and_follow_the_score(scorers, name, protocol):
    _, score = scorers(name, protocol)
    images = photographs(2)
    gradient = jax.grad(lambda x: score(x).sum())(images)
    assert np.all(np.isfinite(gradient))
    assert np.all(jnp.abs(gradient).max((1, 2, 3)) > 0)
    flat = jnp.full_like(images, 0.5)
    assert np.all(np.isfinite(jax.grad(lambda x: score(x).sum())(flat)))


@CONTRACT
def test_smallest_side(scorers, name, protocol):
    model, score = scorers(name, protocol)
    side = model.preprocess.min_side
    assert np.all(np.isfinite(score(jnp.full((1, side, side, 3), 0.4))))


@CONTRACT
def test_documentation_of_a_model(scorers, name, protocol):
    model, _ = scorers(name, protocol)
    assert model.name == name
    assert model.score_range[0] < model.score_range[1]
    assert isinstance(model.score_fn({}), ScoreFn)
    for text in (model.card.training_data, model.card.citation, model.card.code_licence, model.card.weights_licence):
        assert text
    assert model.preprocess.description
    assert model.preprocess.version >= 1


@pytest.mark.parametrize("name", sorted({name for name, protocol in KINDS.values() if protocol == "grid"}))
def test_grid_protocols_see_every_pixel(name):
    """Every pixel of an image that no window divides appears in some view."""
    model = MODELS[name]().with_protocol("grid")
    images = jnp.full((1, 251, 237, 3), 0.5)
    views = jax.grad(lambda x: jnp.sum(model.preprocess.views(x) ** 2 + model.preprocess.views(x)))
    assert np.all(jnp.abs(views(images + 0.1 * jax.random.normal(jax.random.key(0), images.shape))).sum(-1) > 0)


def test_unknown_protocol():
    with pytest.raises(ValueError, match="cnniqa has no protocol 'random'; it knows: published, grid"):
        cnniqa().with_protocol("random")


@pytest.fixture(scope="module")
def live(shared_weights):
    return jax.jit(cnniqa().score_fn(load_torch(shared_weights / "cnniqa_live.pth", cnniqa())))


@pytest.fixture(scope="module")
def shared_weights(shared):
    return shared / "weights"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("I03_01_1", 18.1338),
        *zip([f"ref/I{i}" for i in ("03", "04", "06", "08", "19")], [11.50, 12.15, 14.91, 18.36, 20.47]),
        *zip([f"dist/I{i}" for i in ("03", "04", "06", "08", "19")], [78.48, 12.04, 14.83, 19.71, 85.59]),
    ],
)
def test_cnniqa_scores_as_published(live, shared, name, expected):
    """Scores of the published PyTorch demo, tolerance 0.02."""
    pixels = load_image(shared / "data" / "tid2013" / f"{name}.bmp")
    assert live(jnp.asarray(pixels[None], jnp.float32) / 255.0)[0] == pytest.approx(expected, abs=0.02)


def test_cnniqa_equals_torch(live, shared):
    """Scores and input gradients of the whole protocol; tolerance 1e-4 and 1e-3 of the largest value."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    weights = torch.load(shared / "weights" / "cnniqa_live.pth", map_location="cpu", weights_only=True)
    pixels = load_image(shared / "data" / "tid2013" / "dist" / "I03.bmp")[:100, :140]
    x = torch.from_numpy(pixels / 255.0).double().requires_grad_()
    weighted = x @ torch.tensor([19595.0, 38470.0, 7471.0]).double()
    grey = torch.from_numpy(np.asarray(Image.fromarray(pixels).convert("L")) / 255.0)
    grey = weighted / 65536 + (grey - weighted / 65536).detach()
    patches = grey.unfold(0, 32, 32).unfold(1, 32, 32).reshape(-1, 1, 32, 32)
    mean = f.avg_pool2d(f.pad(patches, (1, 1, 1, 1), mode="replicate"), 3, 1)
    square = f.avg_pool2d(f.pad(patches**2, (1, 1, 1, 1), mode="replicate"), 3, 1)
    patches = (patches - mean) / ((square - mean**2).clamp(min=1e-12).sqrt() + 1)
    maps = f.conv2d(patches, weights["conv1.weight"].double(), weights["conv1.bias"].double()).flatten(2)
    y = torch.cat([maps.amax(2), maps.amin(2)], 1)
    for layer in ("fc1", "fc2", "fc3"):
        y = f.linear(y, weights[f"{layer}.weight"].double(), weights[f"{layer}.bias"].double())
        y = y if layer == "fc3" else y.relu()
    y.mean().backward()
    images = jnp.asarray(pixels[None], jnp.float32) / 255.0
    assert live(images)[0] == pytest.approx(y.mean().item(), rel=1e-4)
    gradient = np.asarray(jax.grad(lambda x: live(x).sum())(images))[0]
    expected = x.grad.numpy()
    different = np.abs(gradient - expected) > 1e-3 * np.abs(expected).max()
    assert different.mean() < 0.01  # windows whose responses tie in float32 may be chosen differently


def test_first_of_equal_windows_wins():
    """As max_pool2d of PyTorch: a flat patch, where all windows tie, has its gradient at the first."""
    module = cnniqa_file.ExtremeResponses(2, 7)
    patches = jnp.full((1, 9, 9, 1), 0.3)
    variables = module.init(jax.random.key(0), patches)
    gradient = jax.grad(lambda x: module.apply(variables, x)[0, 0])(patches)
    assert np.all(gradient[0, 7:] == 0)
    assert np.all(gradient[0, :, 7:] == 0)
    assert np.any(gradient[0, :7, :7] != 0)
