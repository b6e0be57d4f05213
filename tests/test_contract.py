"""One contract for every attack of `attack_table`."""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_table import ATTACKS
from jax.tree_util import Partial
from PIL import Image

from experiments import catalog, photographs, weights
from nriqa_jax.attacks import objectives
from nriqa_jax.attacks.objectives import per_range, raise_score
from nriqa_jax.image import from_uint8, quantize_toward, to_uint8
from nriqa_jax.models.cnniqa import cnniqa
from nriqa_jax.models.tinyiqa import tinyiqa
from nriqa_jax.parallel import call, run_attack
from nriqa_jax.types import CompositeAttack


def together(names):
    """The tests of an attack one after the other in one worker, where its programs are compiled once."""
    marked = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
    return pytest.mark.parametrize("name", marked, scope="module")


_FEW = 250

EVERY = together(ATTACKS)
AIMING = together(name for name, entry in ATTACKS.items() if entry.aims)
FOLLOWING = together(name for name, entry in ATTACKS.items() if entry.gradients)


def build(name, objective, scale=1.0, **more):
    """The attack at ``scale`` times its strength, for scores in 0..100."""
    entry = ATTACKS[name]
    given = {next(iter(keywords(entry))): entry.strength * scale, **entry.settings, **more}
    return entry.make(per_range(objective, 0.0, 100.0), *entry.settings_before, **given)


def briefly(name, objective, scale=1.0):
    """The same with few queries, where it asks for any: enough for all but the strictest comparisons."""
    asked = ATTACKS[name].settings.get("queries")
    return build(name, objective, scale, **({"queries": min(asked, _FEW)} if asked else {}))


def keywords(entry):
    """The settings of an attack, its strength first."""
    parameters = inspect.signature(entry.make).parameters.values()
    return {parameter.name: parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def real_settings(entry):
    """A value of every real-valued setting but the strength."""
    found = {}
    for name, parameter in list(keywords(entry).items())[1:]:
        if float in (parameter.annotation, *typing.get_args(parameter.annotation)):
            found[name] = entry.settings.get(name, parameter.default) or 0.01
    return found


def large_enough(images, name):
    """Images repeated up to the shortest side that an attack takes."""
    repeats = [max(-(-ATTACKS[name].side // side), 1) for side in images.shape[1:3]]
    return jnp.tile(images, (1, *repeats, 1))


@pytest.fixture
def images(images, name):
    return large_enough(images, name)


def test_every_attack_of_the_scripts_is_here():
    assert set(catalog.ATTACKS.values()) <= {entry.make for entry in ATTACKS.values()}


@pytest.mark.xdist_group("workers")
def test_workers_keep_groups_together(request):
    """Where tests run in several processes, the programs of a group are compiled in one of them."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("tests run in one process")
    assert request.node.nodeid.endswith("@workers")


@AIMING
def test_the_objective_improves_in_both_directions(name, tiny_score, images, keys):
    clean = tiny_score(images)
    up = run_attack(build(name, raise_score()), tiny_score, images, keys)
    down = run_attack(build(name, objectives.lower_score()), tiny_score, images, keys)
    assert np.all(up.scores > clean)
    assert np.all(down.scores < clean)
    np.testing.assert_allclose(tiny_score(up.images), up.scores, rtol=1e-6)
    if ATTACKS[name].gradients:
        assert np.all(up.health.budget <= 1 + 1e-5)
        assert not np.any(up.health.nonfinite)


@EVERY
def test_changes_stay_in_their_set_after_rounding(name, tiny_score, images, keys):
    entry = ATTACKS[name]
    found = run_attack(build(name, raise_score()), tiny_score, images, keys).images
    assert found.min() >= 0
    assert found.max() <= 1
    if entry.size is not None:
        bound = entry.strength if entry.budget is None else entry.budget
        budget = (bound(images) if callable(bound) else bound) * (1 + 1e-5)
        rounded = from_uint8(quantize_toward(found, to_uint8(images)))
        assert np.all(entry.size(found - images) <= budget)
        assert np.all(entry.size(rounded - images) <= budget)


@EVERY
def test_results_depend_on_key_and_image_alone(name, tiny_score, images, keys):
    attack = briefly(name, raise_score())
    result = run_attack(attack, tiny_score, images, keys)
    again = run_attack(attack, tiny_score, images, keys)
    np.testing.assert_array_equal(result.images, again.images)
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = run_attack(attack, tiny_score, images[order], keys[order])
    np.testing.assert_allclose(permuted.images, result.images[order], atol=1e-6)
    alone = run_attack(attack, tiny_score, images[2:3], keys[2:3])
    np.testing.assert_allclose(alone.scores, result.scores[2:3], rtol=1e-5)


@EVERY
def test_one_program_equals_the_host_loop(name, tiny_score, images, keys):
    attack = briefly(name, raise_score())
    host = run_attack(attack, tiny_score, images, keys, fused=False)
    fused = run_attack(attack, tiny_score, images, keys, fused=True)
    # Two programs round differently, by how much depends on the processor: as much as a pixel more without a gradient.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), host, fused)


TRACES = []


def traced_score(weight, root, images):
    """Counts how often it is traced; with a root of 0 its gradient is NaN at one pixel."""
    TRACES.append(1)
    return weight * (images**2).mean((1, 2, 3)) + jnp.sqrt(root * images[:, 0, 0, 0])


@EVERY
def test_a_sweep_of_real_settings_traces_the_model_once(name, images, keys):
    """The strength and every other one, alone and together."""
    score_fn, counts = Partial(traced_score, jnp.float32(3.0), jnp.float32(1.0)), []
    others = real_settings(ATTACKS[name])
    points = [(0.5, {}), *((1.0, {other: 1.1}) for other in others), (2.0, dict.fromkeys(others, 0.7))]
    for scale, factors in points:
        settings = {other: value * factors.get(other, 1.0) for other, value in others.items()}
        run_attack(build(name, raise_score(), scale, **settings), score_fn, images, keys, fused=True)
        counts.append(len(TRACES))
    assert counts[0] > 0
    assert counts == counts[:1] * len(points)


@EVERY
def test_a_step_leaves_its_state_in_the_types_of_the_start(name, images, keys):
    """Weak types, too: else a loop on the host compiles its step twice."""

    def score(images):
        return jnp.mean(images, axis=(1, 2, 3))

    attack = build(name, raise_score())
    if isinstance(attack, CompositeAttack):
        pytest.skip("it consists of others")
    start = jax.eval_shape(lambda: attack.init(score, images, keys))
    after, _ = jax.eval_shape(lambda state: attack.step(score, images, state), start)
    for before, now in zip(jax.tree.leaves(start), jax.tree.leaves(after), strict=True):
        assert (now.shape, now.dtype, now.weak_type) == (before.shape, before.dtype, before.weak_type)


@FOLLOWING
def test_nan_gradients_are_counted_and_not_followed(name, images, keys):
    score_fn = Partial(traced_score, jnp.float32(3.0), jnp.float32(0.0))
    attack = build(name, raise_score(), **real_settings(ATTACKS[name]))
    result = run_attack(attack, score_fn, images, keys, fused=True)
    assert np.all(result.health.nonfinite > 0)
    assert np.all(np.isfinite(result.images))


@EVERY
def test_flat_images_give_finite_results(name, tiny_score, images, keys):
    levels = jnp.array([0.0, 1.0, 0.5, 0.25, 1 / 255], jnp.float32)  # typed as the images are: the same programs
    flat = jnp.broadcast_to(levels[:, None, None, None], images.shape)
    result = run_attack(briefly(name, raise_score()), tiny_score, flat, keys)
    assert np.all(np.isfinite(result.images))
    assert np.all(np.isfinite(result.scores))


@pytest.fixture(scope="module")
def crops():
    """Parts of two embedded photographs."""
    return from_uint8(jnp.stack([image[60:108, 50:98] for image in list(photographs.load().values())[:2]]))


@pytest.fixture(scope="module")
def tiny_model():
    variables, _, model = weights.load("embedded", tinyiqa(), 0)
    return model.score_fn(model.prepare(variables))


@AIMING
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_quality_goes_the_wanted_way_on_photographs(name, higher_is_better, crops, tiny_model):
    """A trained network; turned around, a model whose lower scores are better."""
    sign = 1.0 if higher_is_better else -1.0
    crops, score_fn = large_enough(crops, name), Partial(turned, tiny_model, jnp.float32(sign))
    keys, clean = jax.random.split(jax.random.key(0), 2), call(score_fn, crops)
    goal = objectives.raise_quality(higher_is_better=higher_is_better)
    better = run_attack(briefly(name, goal, 0.25), score_fn, crops, keys)
    assert np.mean(sign * (better.scores - clean)) > 0


def turned(score_fn, sign, images):
    return sign * score_fn(images)


@pytest.fixture(scope="module")
def trained_cnniqa(shared):
    variables, _, model = weights.load(str(shared / "weights" / "cnniqa_live.pth"), cnniqa(), 0)
    return model.score_fn(model.prepare(variables))


@pytest.fixture(scope="module")
def real_and_flat(shared):
    """Parts of two photographs where single steps of 2/255 do not overshoot; a black, a white and a grey image."""
    paths = sorted((shared / "data" / "nips2017" / "images").glob("*.png"))[5:12:6]
    photos = [np.asarray(Image.open(path).convert("RGB"))[90:160, 90:160] for path in paths]
    return from_uint8(jnp.stack([*photos, *(jnp.full_like(photos[0], level) for level in (0, 255, 128))]))


@AIMING
def test_trained_cnniqa_is_moved_both_ways(name, trained_cnniqa, real_and_flat):
    """Its scores are lower for better images; flat images give finite results, too."""
    pictures = large_enough(real_and_flat, name)
    keys, clean = jax.random.split(jax.random.key(0), 5), call(trained_cnniqa, pictures)
    for goal, sign in ((objectives.raise_quality, -1), (objectives.lower_quality, 1)):
        attack = briefly(name, goal(higher_is_better=False), 0.25)
        found = run_attack(attack, trained_cnniqa, pictures, keys)
        assert np.all(sign * (found.scores - clean)[:2] > 0), (sign, found.scores, clean)
        assert np.all(np.isfinite(found.images))
        assert np.all(np.isfinite(found.scores))
