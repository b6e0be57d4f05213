"""Names to objects: the only tables that turn a flag's text into a model, an attack or an objective."""

from collections.abc import Callable, Mapping
from typing import Any

from jax.tree_util import Partial

from experiments import filters
from experiments.codecs import JpegCodec
from experiments.data_sets import known
from experiments.data_sets.data_set import Known, Scale
from experiments.training import backbones, plan, published, recipes
from nriqa_jax.attacks import (
    advcf,
    agreements,
    amifgsm,
    black_box,
    korhonen,
    madc,
    objectives,
    perceptual,
    presets,
    ssah,
    stadv,
    transfer,
    universal,
    worst_case,
)
from nriqa_jax.attacks.agreements import Agreement
from nriqa_jax.defenses import (
    adaptive,
    bilateral,
    fcn,
    gaussian,
    geometric,
    jpeg,
    losses,
    median,
    noise,
    non_local_means,
    optimisers,
    quantization,
    regimes,
    total_variation,
    wavelets,
)
from nriqa_jax.defenses.adversaries import LossFn
from nriqa_jax.models.cnniqa import cnniqa
from nriqa_jax.models.dbcnn import dbcnn, dbcnn_sma
from nriqa_jax.models.distance import Distance
from nriqa_jax.models.dists import dists, dists_pooled
from nriqa_jax.models.hyperiqa import hyperiqa
from nriqa_jax.models.linearity import linearity, linearity_resnet18, linearity_resnet34, linearity_resnet50
from nriqa_jax.models.liqe import liqe, liqe_mix
from nriqa_jax.models.lpips import lpips_alex, lpips_vgg
from nriqa_jax.models.maniqa import maniqa, maniqa_pipal
from nriqa_jax.models.metaiqa import metaiqa
from nriqa_jax.models.model import Model
from nriqa_jax.models.spaq import spaq_bl, spaq_mta, spaq_mte, spaq_mts
from nriqa_jax.models.tinyiqa import tinyiqa
from nriqa_jax.types import CompositeAttack, Images, Objective, Purifier, Scores, StepwiseAttack

MODELS: Mapping[str, Callable[[], Model]] = {
    "cnniqa": cnniqa,
    "dbcnn": dbcnn,
    "dbcnn_sma": dbcnn_sma,
    "hyperiqa": hyperiqa,
    "linearity": linearity,
    "linearity_resnet18": linearity_resnet18,
    "linearity_resnet34": linearity_resnet34,
    "linearity_resnet50": linearity_resnet50,
    "liqe": liqe,
    "liqe_mix": liqe_mix,
    "maniqa": maniqa,
    "maniqa_pipal": maniqa_pipal,
    "metaiqa": metaiqa,
    "spaq_bl": spaq_bl,
    "spaq_mta": spaq_mta,
    "spaq_mte": spaq_mte,
    "spaq_mts": spaq_mts,
    "tinyiqa": tinyiqa,
}

# Attacks whose changes are additive, in a ball: they can go on from where another one ended.
BALL_ATTACKS: Mapping[str, Callable[..., StepwiseAttack]] = {
    "fgsm": presets.fgsm,
    "ifgsm": presets.ifgsm,
    "mifgsm": presets.mifgsm,
    "mifgsm_raw": presets.mifgsm_raw,
    "amifgsm": presets.amifgsm,
    "pgd": presets.pgd_linf,
    "pgd_linf": presets.pgd_linf,
    "pgd_l2": presets.pgd_l2,
    "apgd": presets.apgd,
    "nifgsm": transfer.nifgsm,
    "difgsm": transfer.difgsm,
    "tifgsm": transfer.tifgsm,
    "vmifgsm": transfer.vmifgsm,
}

ATTACKS: Mapping[str, Callable[..., StepwiseAttack | CompositeAttack]] = {
    **BALL_ATTACKS,
    "amifgsm_niqe": amifgsm.amifgsm_niqe,
    "madc": madc.madc,
    "madc_linf": madc.madc_linf,
    "korhonen": korhonen.korhonen,
    "korhonen_msu": korhonen.korhonen_msu,
    "perceptual": perceptual.perceptual,
    "perceptual_code": perceptual.perceptual_code,
    "perceptual_linf": perceptual.perceptual_linf,
    "perceptual_msu": perceptual.perceptual_msu,
    "perceptual_ssim": perceptual.perceptual_ssim,
    "ssah": ssah.ssah,
    "stadv": stadv.stadv,
    "stadv_adam": stadv.stadv_adam,
    "advcf": advcf.advcf,
    "advcf_adam": advcf.advcf_adam,
    "universal": universal.universal,
    "facpa": universal.facpa,
    "nes": black_box.nes,
    "square": black_box.square,
    "square_msu": black_box.square_msu,
    "worst_case": worst_case.worst_case,
}

OBJECTIVES: Mapping[str, Callable[[Model, Scores, Any], Objective]] = {
    "away": lambda model, clean, target: objectives.move_away(clean, *model.score_range),
    "change": lambda model, clean, target: objectives.change(clean),
    "raise_quality": lambda model, clean, target: objectives.raise_quality(higher_is_better=model.higher_is_better),
    "lower_quality": lambda model, clean, target: objectives.lower_quality(higher_is_better=model.higher_is_better),
    "raise_score": lambda model, clean, target: objectives.raise_score(),
    "lower_score": lambda model, clean, target: objectives.lower_score(),
    "target": lambda model, clean, target: objectives.reach_target(float(target)),
}

AGREEMENTS: Mapping[str, Callable[[float], Agreement]] = {
    "srocc": agreements.Spearman,
    "plcc": lambda strength: agreements.Pearson(),
    "krocc": agreements.Kendall,
}

# What perceptual attacks keep small.
PLAIN_DISTANCES: Mapping[str, Callable[[Images, Images], Scores]] = {
    "linf": perceptual.chebyshev,
    "ssim": perceptual.dissimilarity,
}

# Full-reference distances with weights; the two of DISTS share theirs.
DISTANCES: Mapping[str, Callable[[], Distance]] = {
    "dists": dists,
    "dists_pooled": dists_pooled,
    "lpips_alex": lpips_alex,
    "lpips_vgg": lpips_vgg,
}

# Published data sets.
DATA_SETS: Mapping[str, Known] = {data_set.name: data_set for data_set in known.ALL}

# Losses of training, by the span of the labels' scale.
LOSSES: Mapping[str, Callable[[float], LossFn]] = {
    "l1": lambda span: Partial(losses.l1),
    "l2": lambda span: Partial(losses.l2),
    "huber": lambda span: Partial(losses.huber, delta=0.05 * span),
    "norm_in_norm": lambda span: Partial(losses.norm_in_norm),
    "pairwise_ranking": lambda span: Partial(losses.pairwise_ranking, margin=0.05 * span),
}
BLIND_TO_SCALE = frozenset({"norm_in_norm", "pairwise_ranking"})

OPTIMISERS: Mapping[str, Callable[..., Any]] = {
    "adam": optimisers.adam,
    "adamw": recipes.adamw,
    "sgd": recipes.sgd,
}

SCHEDULES: Mapping[str, plan.Schedule] = {"constant": plan.constant, "step": plan.by_steps, "cosine": plan.cosine}

DEFENSES: Mapping[str, recipes.Defense] = {
    "none": recipes.Defense(recipes.clean, recipes.no_penalty),
    "nt": recipes.Defense(recipes.clean, recipes.gradient_penalty),
    "adversarial": recipes.Defense(recipes.adversarial, recipes.no_penalty),
    "adversarial_nt": recipes.Defense(recipes.adversarial, recipes.gradient_penalty),
    "free": recipes.Defense(recipes.clean, recipes.no_penalty, free=True),
    "trades": recipes.Defense(recipes.trades, recipes.no_penalty),
}

# Labels of attacked images, by the scale of labels.
RELABELLINGS: Mapping[str, Callable[[Scale], regimes.Relabel]] = {
    "keep": lambda scale: Partial(regimes.keep_labels),
    "ssim": lambda scale: Partial(regimes.correct_labels, Partial(regimes.dissimilarity), scale.best, scale.worst, 1.0),
}

# Published training schedules.
PLANS: Mapping[str, plan.Plan] = {
    "hyperiqa": published.HYPERIQA,
    "hyperiqa_nt": published.HYPERIQA_NT,
    "linearity_p1q2": published.LINEARITY_P1Q2,
    "dbcnn_head": published.DBCNN_HEAD,
    "dbcnn": published.DBCNN,
    "maniqa": published.MANIQA,
    "metaiqa": published.METAIQA,
}

# Of models that have one, as their training code sees it.
BACKBONES: Mapping[str, backbones.Backbone] = {
    "dbcnn": backbones.DBCNN,
    "dbcnn_sma": backbones.DBCNN,
    "hyperiqa": backbones.HYPERIQA,
    "linearity": backbones.LINEARITY,
    "linearity_resnet18": backbones.LINEARITY,
    "linearity_resnet34": backbones.LINEARITY,
    "linearity_resnet50": backbones.LINEARITY,
    "maniqa": backbones.MANIQA,
    "maniqa_pipal": backbones.MANIQA,
    "metaiqa": backbones.METAIQA,
    "spaq_bl": backbones.SPAQ,
    "spaq_mta": backbones.SPAQ,
    "spaq_mte": backbones.SPAQ,
}
PURIFIERS: Mapping[str, Callable[..., Purifier]] = {
    "none": adaptive.Identity,
    "flip": geometric.Flip,
    "random_rotate": geometric.RandomRotate,
    "random_crop": geometric.RandomCrop,
    "resize": geometric.Resize,
    "upscale": geometric.Upscale,
    "gaussian_blur": gaussian.GaussianBlur,
    "median_blur": median.MedianBlur,
    "bilateral": bilateral.Bilateral,
    "non_local_means": non_local_means.NonLocalMeans,
    "total_variation": total_variation.TotalVariation,
    "jpeg": jpeg.ExactJpeg,
    "jpeg_codec": JpegCodec,
    "diffjpeg": jpeg.DiffJpeg,
    "color_quantization": quantization.ColorQuantization,
    "bit_depth": quantization.BitDepth,
    "random_noise": noise.RandomNoise,
    "unsharp": gaussian.Unsharp,
    "wavelet_shrinkage": wavelets.WaveletShrinkage,
    "fcn": filters.load,
}

# Variants of the learned filter, a purifier.
FILTERS: Mapping[str, Callable[[], fcn.FCN]] = {"ref": fcn.ref, "nonorm": fcn.nonorm, "residual": fcn.residual}
