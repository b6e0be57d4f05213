"""SPAQ: patches against a transcription with Pillow, what the four models have of one network, what is dropped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from random_weights import randomize, tensors_of, views
from zoo import ZOO

from nriqa_jax.models.spaq import MSU, PUBLISHED, normalized_exif, patch_offsets, spaq_bl, spaq_mte
from weights_convert.convert import convert_tensors
from weights_convert.rules import CheckpointError, unflatten


def photograph(height, width):
    rng = np.random.default_rng(height + width)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), int)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def published_patches(levels):
    """As the authors' code takes them, with Pillow and numpy."""
    height, width = levels.shape[:2]
    if height >= 512 and width >= 512:
        size = (512, 512 * height // width) if width < height else (512 * width // height, 512)
        levels = np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BILINEAR))
    starts = [sorted({*range(0, side - 223, 112), side - 224}) for side in levels.shape[:2]]
    return np.stack([levels[y : y + 224, x : x + 224] for y in starts[0] for x in starts[1]])


def images(levels):
    return jnp.asarray(levels[None], jnp.float32) / 255


@pytest.mark.parametrize(
    ("size", "count"),
    [((512, 683), 24), ((512, 512), 16), ((384, 512), 12), ((600, 800), 24), ((801, 600), 24), ((448, 224), 3)],
)
def test_published_patches_are_those_of_pillow(size, count):
    levels = photograph(*size)
    expected = published_patches(levels)
    patches = jax.jit(PUBLISHED.views)(images(levels))
    assert patches.shape == (1, count, 224, 224, 3)
    np.testing.assert_allclose(patches[0] * 255, expected, atol=1e-3)


def test_patches_of_the_msu_protocol_are_not_resized():
    levels = photograph(530, 520)
    patches = MSU.views(images(levels))[0] * 255
    assert patches.shape == (16, 224, 224, 3)
    np.testing.assert_allclose(patches[-1], levels[-224:, -224:], atol=1e-3)
    np.testing.assert_allclose(patches[1], levels[:224, 112:336], atol=1e-3)


@pytest.mark.parametrize(("size", "count"), [((100, 150), 2), ((224, 224), 1), ((1, 1), 1)])
def test_small_images_are_enlarged_to_a_patch(size, count):
    assert PUBLISHED.views(images(photograph(*size))).shape == (1, count, 224, 224, 3)


def test_patches_are_flush_with_the_end():
    assert patch_offsets(224) == (0,)
    assert patch_offsets(225) == (0, 1)
    assert patch_offsets(448) == (0, 112, 224)
    assert patch_offsets(512) == (0, 112, 224, 288)


def weights(name):
    """The PyTorch network of a model, its narrow network in JAX, and converted variables."""
    graph, model = randomize(ZOO[name].make_narrow_graph()), ZOO[name].narrow_model()
    return graph, model, jax.device_put(unflatten(convert_tensors(tensors_of(graph), model)[1].arrays))


def test_the_score_is_the_mean_over_patches():
    _, model, variables = weights("spaq_bl")
    x = images(photograph(224, 300))
    patches = MSU.views(x)[0]
    network = jax.jit(model.network.apply)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, x)[0], network(variables, patches).mean(), rtol=1e-5)


def test_quality_is_the_first_output_of_mta():
    torch = pytest.importorskip("torch")
    graph, model, variables = weights("spaq_mta")
    x = views(2, (64, 96))
    outputs = jax.jit(lambda x: model.network.apply(variables, x, method="predict"))(x)
    expected = graph.backbone(torch.from_numpy(x).permute(0, 3, 1, 2)).detach()
    assert outputs.shape == (2, 6)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(model.network.apply)(variables, x), outputs[:, 0], rtol=1e-5)


def test_mte_is_the_baseline_until_tags_are_given():
    torch = pytest.importorskip("torch")
    graph, model, variables = weights("spaq_mte")
    x = views(2, (64, 96))
    backbone = {"params": {**variables["params"]}, "batch_stats": variables["batch_stats"]}
    kernel = backbone["params"].pop("exifCNN")["kernel"]
    baseline = jax.jit(ZOO["spaq_bl"].narrow_model().network.apply)(backbone, x)
    np.testing.assert_allclose(jax.jit(model.network.apply)(variables, x), baseline, rtol=1e-6)

    exif = normalized_exif((4.5, 2.2, 0.01, 100, 3.9985, 26, 1, 0))
    assert exif[4] == pytest.approx(0.6 / 5.657)
    scores = jax.jit(model.network.clone(exif=exif).apply)(variables, x)
    np.testing.assert_allclose(scores, baseline + np.array(exif) @ kernel, rtol=1e-4)
    with_tags = ZOO["spaq_mte"].make_graph(width=4, exif=exif)
    with_tags.load_state_dict(graph.state_dict())
    theirs = with_tags(torch.from_numpy(x).permute(0, 3, 1, 2)).detach()
    np.testing.assert_allclose(scores, theirs, rtol=1e-4)
    assert spaq_mte(exif).network.exif == exif


def test_the_network_for_scenes_is_dropped():
    _, model, _ = weights("spaq_mts")
    tensors = tensors_of(randomize(ZOO["spaq_mts"].make_narrow_graph()))
    conversion = convert_tensors({f"state_dict.{name}": array for name, array in tensors.items()}, model)[1]
    counters = [name for name in conversion.dropped if name.endswith("num_batches_tracked")]
    semantic = [name for name in conversion.dropped if name.startswith("state_dict.backbone_semantic.")]
    assert len(semantic) == len(tensors) // 2
    assert set(conversion.dropped) == {*counters, *semantic}
    without = {name: array for name, array in tensors.items() if name != "backbone_quality.fc.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing\n.*\n +params/fc/bias \(1\)$"):
        convert_tensors(without, model)


def test_a_file_of_another_of_the_models_is_refused():
    baseline, tags = (tensors_of(ZOO[name].make_narrow_graph()) for name in ("spaq_bl", "spaq_mte"))
    model = ZOO["spaq_bl"].narrow_model()
    assert model.network == dataclasses.replace(spaq_bl().network, width=4)
    with pytest.raises(CheckpointError, match=r"exifCNN\.weight -> params/exifCNN/kernel"):
        convert_tensors(tags, model)
    with pytest.raises(CheckpointError, match="missing"):
        convert_tensors(baseline, ZOO["spaq_mte"].narrow_model())
