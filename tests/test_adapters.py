"""Outside models: one contract for all adapters, then what is particular to each."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nriqa_jax.attacks.objectives import raise_score
from nriqa_jax.attacks.presets import ifgsm, pgd_linf
from nriqa_jax.models import adapters
from nriqa_jax.models.adapters import from_callable, from_linen, from_nnx, from_torch
from nriqa_jax.parallel import run_attack

MEAN, STD = (0.485, 0.456, 0.406), [0.229, 0.224, 0.225]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(x))
        return nn.Dense(1)(jnp.tanh(x).mean((1, 2)))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jnp.tanh(self.norm(self.conv(x)))).mean((1, 2)))


def torch_net():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = torch.nn
    body = layers.Conv2d(3, 4, 3), layers.BatchNorm2d(4), layers.Tanh(), layers.Dropout()
    net = layers.Sequential(*body, layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(4, 1))
    net[1].running_mean.normal_()
    return net


def linen(**options):
    return from_linen(Linen(), Linen().init(jax.random.key(0), jnp.zeros((1, 8, 8, 3))), **options)


ADAPTED = {
    "linen": linen,
    "nnx": lambda **options: from_nnx(NNX(nnx.Rngs(0)), **options),
    "callable": lambda **options: from_callable(lambda x: jnp.sin(9 * x).mean((1, 2)) @ jnp.ones((3, 1)), **options),
    "torch": lambda **options: from_torch(torch_net(), **options),
}
CONTRACT = pytest.mark.parametrize("adapted", ADAPTED.values(), ids=ADAPTED)


@CONTRACT
def test_three_lines_attack_an_outside_model(adapted, images, keys):
    score_fn = adapted(mean=MEAN, std=STD)
    attack = ifgsm(raise_score(), epsilon=4 / 255)
    result = run_attack(attack, score_fn, images, keys)

    clean = score_fn(images)
    assert clean.shape == (5,)
    assert clean.dtype == jnp.float32
    assert np.all(result.scores > clean)
    assert np.all(result.health.zero < 0.5)
    fused = run_attack(attack, score_fn, images, keys, fused=True)
    np.testing.assert_allclose(fused.images, result.images, atol=1e-6)


@CONTRACT
def test_images_do_not_influence_each_other(adapted, images):
    score_fn = adapted(size=(16, 16))
    scores, gradient = jax.value_and_grad(lambda x: score_fn(x).sum())(images)
    assert np.isfinite(scores)
    for i in (0, 3):
        np.testing.assert_allclose(score_fn(images[i : i + 1]), score_fn(images)[i : i + 1], rtol=1e-5)
        alone = jax.grad(lambda x: score_fn(x).sum())(images[i : i + 1])
        np.testing.assert_allclose(alone[0], gradient[i], atol=1e-6)


@CONTRACT
@pytest.mark.parametrize("fused", [False, True])
def test_an_epsilon_sweep_traces_once(adapted, fused, images, keys, monkeypatch):
    traces, views = [], adapters.Options.views
    monkeypatch.setattr(adapters.Options, "views", lambda self, images: traces.append(1) or views(self, images))
    score_fn, counts = adapted(), []
    for k in (1, 2, 4):
        run_attack(ifgsm(raise_score(), epsilon=k / 255), score_fn, images, keys, fused=fused)
        counts.append(len(traces))
    assert counts[0] > 0
    assert counts == counts[:1] * 3


@CONTRACT
def test_a_wrong_output_is_one_sentence(adapted, images):
    sentence = r"^the model's output for 5 images is (the shape \(5, 1, 2\)|a dict) instead of one number per image; .*"
    for output in (lambda out: out.reshape(5, 1, 1)[:, :, [0, 0]], lambda out: {"quality": out}):
        score_fn = adapted(output=output)
        with pytest.raises(ValueError, match=sentence):
            jax.jit(score_fn)(images)
        with pytest.raises(ValueError, match=sentence):
            jax.vjp(score_fn, images)


def test_weights_are_data(images, keys):
    module, traces, counts = Linen(), [], []
    attack = ifgsm(raise_score(), steps=2)

    def output(out):
        traces.append(1)
        return out[:, 0]

    for seed in range(3):
        variables = module.init(jax.random.key(seed), images)
        score_fn = from_linen(module, variables, output=output)
        assert len(jax.tree.leaves(score_fn)) == len(jax.tree.leaves(variables))
        run_attack(attack, score_fn, images, keys)
        counts.append(len(traces))
    assert counts[0] > 0
    assert len(set(counts)) == 1


def test_options_are_the_preprocessing(images):
    x = adapters.resize_torch(images, 12, 10, antialias=True)
    want = ((x - jnp.array(MEAN)) / jnp.array(STD)).max((1, 2, 3))
    score_fn = from_callable(
        lambda x: {"max": x.max((1, 2, 3))}, mean=MEAN, std=STD, size=[12, 10], output=lambda o: o["max"]
    )
    np.testing.assert_allclose(score_fn(images), want, rtol=1e-6)


def test_a_pytree_callable_keeps_its_weights_as_data(images):
    score_fn = from_callable(jax.tree_util.Partial(lambda w, x: (w * x).mean((1, 2, 3)), jnp.float32(3.0)))
    assert jax.tree.leaves(score_fn) == [3.0]
    np.testing.assert_allclose(score_fn(images), 3 * images.mean((1, 2, 3)), rtol=1e-6)


def test_nnx_modules_are_evaluated_and_left_alone(images):
    module = NNX(nnx.Rngs(0))
    module.norm.mean[...] = jnp.arange(4.0)
    score_fn = from_nnx(module)
    scores = jax.jit(score_fn)(images)
    np.testing.assert_array_equal(scores, jax.jit(score_fn)(images))
    assert not module.norm.use_running_average
    np.testing.assert_array_equal(module.norm.mean[...], jnp.arange(4.0))
    module.eval()
    np.testing.assert_allclose(scores, module(images)[:, 0], rtol=1e-5)


def test_torch_gradients_are_those_of_autograd(images):
    torch, net = pytest.importorskip("torch"), torch_net()
    score_fn = from_torch(net, mean=MEAN, std=STD, size=(18, 15), output=lambda out: -out)
    weights = jnp.arange(5.0) - 1
    gradient = jax.jit(jax.grad(lambda x: score_fn(x) @ weights))(images)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())

    x = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).requires_grad_()
    small = torch.nn.functional.interpolate(x, (18, 15), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    scores = -net.eval()((small - mean) / std)[:, 0]
    (scores @ torch.arange(-1.0, 4.0)).backward()
    np.testing.assert_allclose(score_fn(images), scores.detach(), rtol=1e-5)
    np.testing.assert_allclose(gradient, x.grad.permute(0, 2, 3, 1), atol=1e-6)


def test_one_call_of_torch_is_one_step_of_all_restarts(images, keys):
    net, sizes = torch_net(), []
    net.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    attack = pgd_linf(raise_score(), steps=3, restarts=2)
    score_fn = from_torch(net)
    first = jax.block_until_ready(run_attack(attack, score_fn, images, keys))
    sizes.clear()
    again = jax.block_until_ready(run_attack(attack, score_fn, images, keys))
    assert sizes == [10, 10, 10, 10]
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_torch_with_images_on_several_devices(images, keys):
    score_fn, attack = from_torch(torch_net()), ifgsm(raise_score(), steps=3)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("images",)), PartitionSpec("images"))
    spread = run_attack(attack, score_fn, *jax.device_put((images[:4], keys[:4]), sharding))
    np.testing.assert_allclose(spread.images, run_attack(attack, score_fn, images[:4], keys[:4]).images, atol=1e-6)


@pytest.mark.parametrize("kind", ["bfloat16", "float64"])
def test_torch_modules_keep_their_number_format(kind, images):
    torch, net = pytest.importorskip("torch"), torch_net()
    exact = from_torch(net)(images)
    score_fn = from_torch(net.to(getattr(torch, kind)))
    np.testing.assert_allclose(score_fn(images), exact, atol=0.02)
    assert jax.grad(lambda x: score_fn(x).sum())(images).dtype == jnp.float32


def test_what_torch_cannot_do_is_said(images):
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match=r"^Tanh has no parameters; .*like=torch.zeros\(1\)"):
        from_torch(torch.nn.Tanh())
    score_fn = from_torch(torch.nn.Tanh(), like=torch.zeros(1), output=lambda out: out.amax((1, 2, 3)))
    np.testing.assert_allclose(score_fn(images), np.tanh(images.max((1, 2, 3))), rtol=1e-6)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(score_fn, (images,), (images,))
    with pytest.raises(ValueError, match="JVP"):
        jax.hessian(lambda x: score_fn(x).sum())(images)
    score_fn = from_torch(torch.nn.Tanh(), like=torch.zeros(1), output=lambda out: out.detach().amax((1, 2, 3)))
    with pytest.raises(ValueError, match=r"^Tanh gives no gradient; .*no_grad\(\)\?"):
        jax.grad(lambda x: score_fn(x).sum())(images)


def test_unknown_options_are_refused():
    fields = {field.name for field in dataclasses.fields(adapters.Options)}
    assert fields == {"mean", "std", "size", "antialias", "output"}
    with pytest.raises(TypeError, match="means"):
        from_callable(jnp.sum, means=MEAN)
