"""Plans, samples, labels and recipes of training: published numbers, and that everything random is a pure function."""

import dataclasses
import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image
from zoo import ZOO

from experiments import catalog, checkpoints, train_model
from experiments.catalog import PLANS, SCHEDULES
from experiments.data_sets.data_set import DataSet, Item, Scale
from experiments.errors import UserError
from experiments.plan_flags import cuts_of, plan_of
from experiments.train_model import Config
from experiments.training import recipes
from experiments.training.labels import Line, calibrated, fitted_line, labelling
from experiments.training.plan import Moment, Plan, Quirk, rates
from experiments.training.samples import Cuts, Source, draw, steps_per_epoch
from nriqa_jax.defenses.regimes import AdversarialTraining, CleanTraining, Consistency
from nriqa_jax.layers import BatchNorm, Conv
from nriqa_jax.models import hyperiqa
from nriqa_jax.models.cnniqa import cnniqa
from nriqa_jax.models.tinyiqa import tinyiqa


def flags(**settings):
    return Config(**{"model": "tinyiqa", "data": "table.csv", "out": "run", **settings})


def test_flags_go_before_the_published_schedule_and_that_before_defaults():
    assert plan_of(flags()) == Plan()
    published = plan_of(flags(config="hyperiqa_nt"))
    assert published == dataclasses.replace(PLANS["hyperiqa_nt"], quirks=())
    assert plan_of(flags(config="hyperiqa_nt", paper_quirks=True)) == PLANS["hyperiqa_nt"]
    other = plan_of(flags(config="hyperiqa_nt", nt_weight=0.0, crops=3, freeze_backbone=True))
    assert (other.nt_weight, other.crops, other.freeze_backbone, other.batch_size) == (0.0, 3, True, 16)
    with pytest.raises(UserError, match="whose code has some: hyperiqa"):
        plan_of(flags(config="dbcnn", paper_quirks=True))


def test_the_published_schedule_of_gradient_norm_training():
    """Liu et al., CVPR 2024, and what their code does in the end."""
    plan = PLANS["hyperiqa_nt"]
    assert (plan.loss, plan.epochs, plan.batch_size, plan.crop, plan.crops) == ("l1", 16, 16, 224, 25)
    assert (plan.nt_weight, plan.nt_step, plan.nt_units, plan.weight_decay) == (1e-3, 1e-2, "normalised", 5e-4)

    def rates_at(plan, epoch):
        return rates(plan, SCHEDULES[plan.schedule], Moment(1454 * epoch + 7, epoch, 16 * 1454))

    intended = dataclasses.replace(plan, quirks=())
    assert rates_at(intended, 0) == pytest.approx((2e-5, 2e-4))
    assert rates_at(intended, 6) == pytest.approx((2e-6, 2e-5))
    assert rates_at(intended, 9) == pytest.approx((2e-6, 2e-6))
    assert rates_at(intended, 12) == pytest.approx((2e-7, 2e-7))
    assert rates_at(plan, 0) == pytest.approx((2e-5, 2e-4))
    assert rates_at(plan, 1) == pytest.approx((2e-5, 0.0))
    assert rates_at(plan, 15) == pytest.approx((2e-5, 0.0))
    assert {Quirk.OPTIMISER_RENEWED, Quirk.THREE_PASSES} < set(plan.quirks)


def test_other_schedules():
    maniqa = PLANS["maniqa"]
    by_steps = [rates(maniqa, SCHEDULES["cosine"], Moment(step, 0, 1000)).backbone for step in (0, 25, 50, 100)]
    np.testing.assert_allclose(by_steps, [1e-5, 5e-6, 0.0, 1e-5], atol=1e-12)
    plain = dataclasses.replace(maniqa, quirks=())
    assert rates(plain, SCHEDULES["cosine"], Moment(500, 5, 1000)).backbone == pytest.approx(5e-6)
    compounded, published = PLANS["metaiqa"], Moment(0, 12, 100)
    assert rates(compounded, SCHEDULES["step"], published).head == pytest.approx(1e-4 * 0.8**3)
    assert rates(dataclasses.replace(compounded, quirks=()), SCHEDULES["step"], published).head == pytest.approx(8e-5)
    assert rates(PLANS["dbcnn_head"], SCHEDULES["constant"], Moment(3, 0, 9)) == (0.0, 1e-3)
    assert PLANS["linearity_p1q2"].loss == "norm_in_norm"


def test_named_defenses_become_recipes():
    scale = Scale(0.0, 100.0)

    def recipe(**settings):
        plan = Plan(**settings)
        parts = train_model.named_parts(plan, scale, ())
        return recipes.recipe(plan, parts, rates(plan, parts.schedule, Moment(0, 0, 1)))

    assert jax.tree.structure(recipe()) == jax.tree.structure(recipe(learning_rate=1.0, weight_decay=0.1))
    assert isinstance(recipe().regime, CleanTraining)
    assert recipe().penalty is None
    pixels = recipe(defense="nt", nt_units="pixels", nt_method="jvp", nt_weight=0.5).penalty
    assert (pixels.by_pixels, pixels.weight, pixels.method.__name__) == (True, 0.5, "directional_derivative")
    fgsm = recipe(defense="adversarial", epsilon="2/255", relabel="ssim")
    assert isinstance(fgsm.regime, AdversarialTraining)
    assert (fgsm.regime.adversary.steps, fgsm.regime.adversary.start) == (1, 0.0)
    assert fgsm.regime.adversary.step_size == pytest.approx(2 / 255)
    black, grey = jnp.zeros((1, 16, 16, 3)), jnp.full((1, 16, 16, 3), 0.5)
    assert fgsm.regime.relabel(jnp.array([50.0]), grey, black)[0] < 40
    assert fgsm.free_epsilon is None
    free = recipe(defense="free", epsilon="2/255")
    assert isinstance(free.regime, CleanTraining)
    assert free.free_epsilon == pytest.approx(2 / 255)
    several = recipe(defense="adversarial", attack_steps=5).regime.adversary
    assert (several.steps, several.start) == (5, pytest.approx(4 / 255))
    consistency = recipe(defense="trades", consistency=3.0).regime
    assert isinstance(consistency, Consistency)
    assert (consistency.weight, consistency.score_range) == (3.0, 100.0)


def test_an_epoch_is_a_function_of_seed_and_number():
    cuts = Cuts(side=8, per_image=3)
    first = draw(5, cuts, seed=1, epoch=2)
    for again, equal in ((draw(5, cuts, 1, 2), True), (draw(5, cuts, 1, 3), False), (draw(5, cuts, 2, 2), False)):
        assert np.array_equal(first.places, again.places) == equal
    assert np.bincount(first.images).tolist() == [3] * 5
    assert not draw(5, cuts._replace(flip=0.0), 1, 2).mirrored.any()
    assert draw(5, cuts._replace(flip=1.0), 1, 2).mirrored.all()
    assert steps_per_epoch(5, cuts, 4) == 4


def test_batches_go_on_from_any_step(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 9, 12, 3), dtype=np.uint8)
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    labels = {f"{i}.png": float(i) for i in range(5)}
    source = Source(tmp_path, labels, Cuts(side=6, per_image=2))
    batches = list(source.batches(4, seed=0, epoch=1))
    assert [len(batch.labels) for batch in batches] == [4, 4, 4]
    later = list(Source(tmp_path, labels, Cuts(side=6, per_image=2)).batches(4, seed=0, epoch=1, first=2))
    np.testing.assert_array_equal(later[0].pixels, batches[2].pixels)
    np.testing.assert_array_equal(later[0].numbers, batches[2].numbers)
    assert len(set(np.concatenate([batch.numbers for batch in batches]).tolist())) == 10
    for pixels, label in zip(batches[0].pixels, batches[0].labels):
        windows = np.lib.stride_tricks.sliding_window_view(pictures[int(label)], (6, 6), (0, 1))
        found = [
            np.array_equal(np.moveaxis(w, 0, 2), p)
            for w in windows.reshape(-1, 3, 6, 6)
            for p in (pixels, pixels[:, ::-1])
        ]
        assert any(found), "each sample is a crop of its own image, maybe mirrored"
    whole = next(Source(tmp_path, labels, Cuts(side=0, flip=0.0, size=(4, 5))).batches(5, 0, 0))
    assert whole.pixels.shape == (5, 4, 5, 3)
    Image.fromarray(pictures[0][:7]).save(tmp_path / "0.png")
    with pytest.raises(UserError, match="several sizes"):
        next(Source(tmp_path, labels, Cuts(side=0)).batches(5, 0, 0))


def data_set(scale, scores=(20.0, 80.0)):
    items = tuple(Item(str(i), str(i), score) for i, score in enumerate(scores))
    return DataSet("set", Path(), items, scale, "table.csv")


def test_scores_become_labels_in_the_unit_of_the_model(capsys):
    """TinyIQA scores quality from 0 to 100, CNNIQA degradation."""
    better, worse = data_set(Scale(1.0, 5.0)), data_set(Scale(100.0, 0.0))
    assert [labelling(tinyiqa(), better, "model").label(mos) for mos in (1.0, 2.0, 5.0)] == [0.0, 25.0, 100.0]
    assert labelling(tinyiqa(), worse, "model").label(30.0) == 70.0
    assert labelling(cnniqa(), worse, "model").label(30.0) == 30.0
    assert labelling(cnniqa(), better, "model").label(5.0) == 0.0
    raw = labelling(tinyiqa(), better, "raw")
    assert (raw.label(2.0), raw.scale) == (2.0, Scale(1.0, 5.0))
    with pytest.raises(UserError, match="--labels=raw"):
        labelling(tinyiqa(), worse, "raw")
    assert labelling(tinyiqa(), data_set(None), "model").label(2.0) == 2.0
    assert capsys.readouterr().err == ""
    labelling(tinyiqa(), data_set(None, (1.0, 500.0)), "model")
    assert "taken as they are" in capsys.readouterr().err


def test_scores_of_scale_blind_losses_are_moved_to_the_unit_of_labels():
    scores = np.array([1.0, 2.0, 4.0])
    line = fitted_line(scores, 3.0 * scores - 1.0)
    assert (line.slope, line.offset) == (pytest.approx(3.0), pytest.approx(-1.0))
    assert fitted_line(np.ones(3), scores).slope == 0.0
    variables = {"params": {}, "calibration": {"k": jnp.array([3.0, 1.0, 1.0]), "b": jnp.array([4.0, 0.0, 0.0])}}
    moved = calibrated(variables, Line(2.0, 5.0))["calibration"]
    assert moved["k"][0] * 7.0 + moved["b"][0] == 2.0 * (3.0 * 7.0 + 4.0) + 5.0
    np.testing.assert_array_equal(moved["k"][1:], 1.0)


def test_checkpoints_hold_states_and_progress(tmp_path):
    state = {"a": jnp.arange(3.0), "b": (jnp.zeros((), jnp.int32), {})}
    with checkpoints.opened(tmp_path, keep=1) as saved:
        assert saved.restore(state) == (state, 0, {})
        saved.save(1, state, {"history": [{"loss": 0.1}]})
        saved.save(2, jax.tree.map(lambda x: x + 1, state), {"history": []})
    mesh = NamedSharding(Mesh(np.array(jax.local_devices()), ("images",)), PartitionSpec())
    with checkpoints.opened(tmp_path) as saved:
        found, step, progress = saved.restore(jax.device_put(state, mesh))
    np.testing.assert_array_equal(found["a"], [1.0, 2.0, 3.0])
    assert found["a"].sharding == mesh
    assert found["b"][0].dtype == jnp.int32
    assert (step, progress) == (2, {"history": []})
    assert not (tmp_path / "1").exists()


class SmallTrunk(nn.Module):
    """In place of a ResNet-50: maps at strides 2, 4, 8, 16 and 32, with batch norm."""

    @nn.compact
    def __call__(self, x):
        maps = [x := Conv(4, 1, 2, name="stem")(x)]
        for layer in range(4):
            maps.append(x := nn.relu(BatchNorm(name=f"bn{layer}")(Conv(8, 1, 2, name=f"layer{layer}")(x))))
        return maps


def test_the_published_run_of_gradient_norm_training(tmp_path, monkeypatch):
    """One epoch of its named configuration, quirks included, on a narrow HyperIQA with a small trunk."""
    monkeypatch.setattr(hyperiqa, "resnet50", lambda name, width: SmallTrunk(name=name))
    monkeypatch.setitem(catalog.MODELS, "hyperiqa", ZOO["hyperiqa"].narrow_model)
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (224, 230, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "set.csv").write_text("image,mos\n0.png,70\n1.png,40\n2.png,20\n3.png,50\n")
    settings = {"model": "hyperiqa", "config": "hyperiqa_nt", "paper_quirks": True, "selection": "last", "epochs": 1}
    settings |= {"data": str(tmp_path / "set.csv"), "mos_range": "0,100", "shares": "50,0,50"}
    summary = train_model.run(Config(**settings, out=str(tmp_path / "run")))
    assert summary["splits"][0]["data"]["images"] == {"train": 2, "validation": 0, "test": 2}
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert row["steps"] == 4  # 2 images, 25 crops of each, 16 in a step
    assert (row["rate"], row["rate_head"]) == (pytest.approx(2e-5), pytest.approx(2e-4))
    assert row["total"] == pytest.approx(row["loss"] + 1e-3 * row["penalty"], rel=1e-5)
    assert row["penalty"] > 0
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["plan"]
    assert (plan["nt_step"], plan["crops"], len(plan["quirks"])) == (0.01, 25, 4)
    assert cuts_of(PLANS["hyperiqa_nt"]) == Cuts(224, 25, 0.5, None)
