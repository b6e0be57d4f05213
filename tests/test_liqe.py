"""LIQE: its texts, features of texts that are computed once, windows, pooling, and the files of CLIP."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomize, tensors_of, views
from scipy.special import softmax
from zoo import ZOO

from nriqa_jax.models import liqe_prompts, protocols
from nriqa_jax.models.clip import unit
from nriqa_jax.models.liqe import expected_quality, liqe, liqe_mix, with_stored_texts
from nriqa_jax.resize import resize_pil
from weights_convert.convert import convert_tensors
from weights_convert.rules import flatten, unflatten
from weights_convert.torch_file import read_tensors

BOTH = pytest.mark.parametrize("name", ["liqe", "liqe_mix"])
TOKENIZED = {  # sha256 of what OpenAI's tokenizer gives, as little-endian int32 [texts, 77]
    liqe_prompts.quality_only: (5, "e002cbf564a35bdc9b0d97e868a1b012648f2b3b715a141dfdf67daec9913c06"),
    liqe_prompts.multitask: (495, "e55e68bc88bd5480b95f646a081c1a31330ee5995cf7404878527197832eddac"),
}


@pytest.mark.parametrize("prompts", TOKENIZED)
def test_texts_are_those_of_the_tokenizer(prompts):
    ids = prompts()
    count, digest = TOKENIZED[prompts]
    filled = np.pad(ids, ((0, 0), (0, 77 - ids.shape[1]))).astype("<i4")
    assert len(ids) == count
    assert ids[:, -1].max() == 49407, "the array is as long as the longest text"
    assert hashlib.sha256(filled.tobytes()).hexdigest() == digest


@pytest.fixture(scope="module", params=["liqe", "liqe_mix"])
def narrow(request):
    """A narrow model and variables under which its logits depend on the views."""
    model = ZOO[request.param].narrow_model()
    pytest.importorskip("torch")
    tensors = tensors_of(randomize(ZOO[request.param].make_narrow_graph()))
    return model, jax.device_put(unflatten(convert_tensors(tensors, model)[1].arrays))


def test_features_of_texts_take_the_place_of_the_text_tower(narrow):
    model, variables = narrow
    prepared = model.prepare(variables)
    assert set(prepared) == {"params", "texts"}
    assert set(prepared["params"]) == set(variables["params"]) - {"text"}
    x = jnp.asarray(views(2, (224, 224)))
    np.testing.assert_allclose(model.network.apply(prepared, x), model.network.apply(variables, x), rtol=1e-5)
    again = model.prepare(prepared)
    jax.tree.map(np.testing.assert_array_equal, prepared, again)


def test_features_of_texts_are_of_length_one_and_differ(narrow):
    model, variables = narrow
    features = model.network.apply(variables, method="text_features")
    np.testing.assert_allclose(jnp.sum(features**2, axis=1), 1.0, rtol=1e-5)
    cosines = features @ features.T - 2 * jnp.eye(len(features))
    assert cosines.max() < 0.9999


def test_what_follows_a_text_does_not_count(narrow):
    model, variables = narrow
    longer = model.network.clone(prompts=lambda: np.pad(model.network.prompts(), ((0, 0), (0, 9))))
    features, same = (network.apply(variables, method="text_features") for network in (model.network, longer))
    np.testing.assert_allclose(same, features, atol=1e-5)


@BOTH
def test_the_quality_is_a_mean_over_what_the_texts_name(name):
    count = 495 if name == "liqe_mix" else 5
    logits = np.random.default_rng(0).normal(0, 3, (4, 6, count))
    scores = np.zeros(4)
    probabilities = softmax(logits.mean(1), axis=1)
    for text, probability in enumerate(probabilities.T):
        scores += (1 + text // (count // 5)) * probability
    np.testing.assert_allclose(expected_quality(jnp.asarray(logits, jnp.float32)), scores, rtol=1e-5)
    certain = np.eye(count)[None, None, -1] * 1e4
    np.testing.assert_allclose(expected_quality(jnp.asarray(certain, jnp.float32)), [5.0])


def corners(protocol, height, width):
    """Row and column of the first pixel of each view of an image whose pixels tell where they are."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = jnp.asarray(np.stack([rows, columns, 0 * rows], -1)[None], jnp.float32)
    mean, std = (np.asarray(value) for value in protocols.CLIP)
    found = np.asarray(protocol.views(image))[0, :, 0, 0] * std + mean
    assert np.all(found[:, 2] < 1e-3)
    return [tuple(int(v) for v in np.round(corner[:2])) for corner in found]


def sliding(height, width, stride):
    return [(y, x) for y in range(0, height - 223, stride) for x in range(0, width - 223, stride)]


@pytest.mark.parametrize(
    ("height", "width", "count", "step"),
    [(384, 512, 15, 4), (300, 401, 15, 1), (400, 401, 15, 2), (300, 340, 12, 1), (224, 224, 1, 1), (255, 255, 1, 1)],
)
def test_windows_of_pyiqa(height, width, count, step):
    every = sliding(height, width, 32)
    found = corners(liqe().with_protocol("pyiqa").preprocess, height, width)
    assert found == [every[i * step] for i in range(count)]
    expected = found if len(every) >= 15 else [(0, 0)]
    assert corners(liqe().with_protocol("published").preprocess, height, width) == expected


@pytest.mark.parametrize(("height", "width", "stride"), [(240, 1023, 32), (240, 1024, 48), (1100, 260, 48)])
def test_the_authors_take_longer_steps_on_long_images(height, width, stride):
    every = sliding(height, width, stride)
    step = len(every) // 15
    expected = [every[i * step] for i in range(15)] if step else [(0, 0)]
    assert corners(liqe().with_protocol("published").preprocess, height, width) == expected
    assert corners(liqe().with_protocol("pyiqa").preprocess, height, width) != expected or stride == 32


def test_the_authors_shrink_large_images():
    published, pyiqa = (jax.jit(liqe().with_protocol(name).preprocess.views) for name in ("published", "pyiqa"))
    image = jax.random.uniform(jax.random.key(0), (1, 780, 800, 3))
    np.testing.assert_array_equal(published(image), pyiqa(jax.jit(resize_pil, static_argnums=(1, 2))(image, 768, 787)))
    np.testing.assert_array_equal(published(image[:, :767]), pyiqa(image[:, :767]))


@pytest.mark.parametrize("name", [protocol.name for protocol in liqe().protocols])
def test_small_images_are_enlarged(name):
    views = liqe().with_protocol(name).preprocess.views
    small = jax.random.uniform(jax.random.key(1), (2, 50, 70, 3))
    np.testing.assert_array_equal(views(small), views(protocols.enlarged(small, 224)))


def test_files_of_openai_and_pyiqa(narrow):
    """OpenAI's are in half precision, but for embeddings and norms, and say three sizes."""
    model, variables = narrow
    pytest.importorskip("torch")
    tensors = tensors_of(randomize(ZOO[model.name].make_narrow_graph()))
    half = {key: x.astype(np.float16) if x.ndim > 1 and "embedding" not in key else x for key, x in tensors.items()}
    sizes = {"input_resolution": np.array(224), "context_length": np.array(77), "vocab_size": np.array(32)}
    layout, conversion = convert_tensors(half | sizes, model)
    assert layout == "original"
    assert set(conversion.dropped) == set(sizes)
    for path, array in flatten(variables).items():
        assert conversion.arrays[path].dtype == np.float32
        np.testing.assert_allclose(conversion.arrays[path], array, rtol=1e-3, atol=1e-6)

    pyiqa = {f"params.clip_model.{key}": x for key, x in tensors.items()}
    layout, conversion = convert_tensors(pyiqa, model)
    assert (layout, conversion.container) == ("pyiqa", "params.")
    for path, array in flatten(variables).items():
        np.testing.assert_array_equal(conversion.arrays[path], array)


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_openai_is_a_script(narrow, tmp_path):
    """OpenAI publishes compiled modules; the weights are read without what is compiled."""
    torch = pytest.importorskip("torch")
    model, variables = narrow
    graph = randomize(ZOO[model.name].make_narrow_graph())
    path = tmp_path / "ViT-B-32.pt"
    torch.jit.trace(graph, torch.from_numpy(views(1, (224, 224))).permute(0, 3, 1, 2), check_trace=False).save(path)
    arrays = convert_tensors(read_tensors(path), model)[1].arrays
    for name, array in flatten(variables).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_vectors_of_length_one_have_a_finite_gradient_at_zero():
    x = jnp.zeros((2, 4)).at[0, 1].set(3.0)
    np.testing.assert_allclose(unit(x), [[0, 1, 0, 0], [0, 0, 0, 0]])
    assert np.all(np.isfinite(jax.jacobian(unit)(x)))
    assert np.all(np.isfinite(jax.hessian(lambda x: unit(x).sum())(x)))


@pytest.mark.parametrize("build", [liqe, liqe_mix])
def test_random_weights_need_few_texts(build):
    """Initialisation looks at one text only; all shapes are those of CLIP ViT-B/32."""
    model = build()
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 151_277_313
    prepared = jax.eval_shape(lambda variables: with_stored_texts(model.network, variables), shapes)
    assert prepared["texts"]["features"].shape == (len(model.network.prompts()), 512)
    assert sum(leaf.size for leaf in jax.tree.leaves(prepared["params"])) == 87_849_217
