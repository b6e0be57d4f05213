"""Every attack, with what its contract needs to know of it: the table that a new attack must enter."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nriqa_jax.attacks import (
    advcf,
    amifgsm,
    black_box,
    korhonen,
    madc,
    perceptual,
    presets,
    ssah,
    stadv,
    transfer,
    unet,
    universal,
    worst_case,
)
from nriqa_jax.attacks.perturbations import image_norm, root_mean_square
from nriqa_jax.metrics.niqe import BLOCK, FEATURES, Pristine, niqe
from nriqa_jax.parallel import call

EPSILON = 8 / 255


def linf_size(change):
    return jnp.abs(change).max((1, 2, 3))


def l2_size(change):
    return image_norm(change)[:, 0, 0, 0]


class Entry(NamedTuple):
    """An attack.

    Attributes:
      make: its preset.
      settings: what the contract runs it with, besides the strength.
      strength: value of its first setting.
      size: what of a change is at most `budget`; None where only the pixel range bounds it.
      budget: the bound, or a function from images to one for each; the strength if None.
      gradients: whether it follows gradients.
      aims: whether it goes where the objective says; a universal pattern goes where it was trained to.
      settings_before: what it takes after the objective, by position.
      side: shortest side of images that it takes.
    """

    make: Callable[..., Any]
    settings: Mapping[str, Any] = MappingProxyType({})
    strength: float = EPSILON
    size: Callable[..., Any] | None = linf_size
    budget: float | Callable[..., Any] | None = None
    gradients: bool = True
    aims: bool = True
    settings_before: tuple[Any, ...] = ()
    side: int = 1


PATTERN = np.random.default_rng(5).uniform(-0.1, 0.1, (10, 9, 3)).astype(np.float32)

NATURAL = Pristine(np.zeros(FEATURES, np.float32), *(np.eye(FEATURES, dtype=np.float32),) * 2)

NETWORK = unet.UNet(widths=(4, 6, 8))
FACPA = {"network": unet.drawing(NETWORK, unet.init(NETWORK, jax.random.key(5))), "side": unet.multiple(NETWORK)}

WITH_SSIM: dict[str, Any] = {"size": None, "settings_before": (perceptual.dissimilarity,)}

ATTACKS = {
    "fgsm": Entry(presets.fgsm),
    "ifgsm": Entry(presets.ifgsm),
    "mifgsm": Entry(presets.mifgsm),
    "mifgsm_raw": Entry(presets.mifgsm_raw),
    "amifgsm": Entry(presets.amifgsm),
    "amifgsm_niqe": Entry(
        amifgsm.amifgsm_niqe,
        {"natural": NATURAL},
        strength=0.2,
        budget=lambda images: 0.2 / call(niqe, images, NATURAL),
        side=BLOCK,
    ),
    "pgd_linf": Entry(presets.pgd_linf),
    "pgd_linf_restarts": Entry(presets.pgd_linf, {"restarts": 3}),
    "pgd_l2": Entry(presets.pgd_l2, size=l2_size),
    "pgd_l2_restarts": Entry(presets.pgd_l2, {"restarts": 2}, size=l2_size),
    "apgd": Entry(presets.apgd),
    "apgd_restarts": Entry(presets.apgd, {"restarts": 2}),
    "nifgsm": Entry(transfer.nifgsm),
    "difgsm": Entry(transfer.difgsm),
    "tifgsm": Entry(transfer.tifgsm),
    "vmifgsm": Entry(transfer.vmifgsm, {"neighbours": 2}),
    "madc": Entry(madc.madc, strength=0.01, size=root_mean_square, budget=10 / 255),
    "madc_linf": Entry(madc.madc_linf, {"steps": 10}, strength=0.01, budget=7 / 255),
    "korhonen": Entry(korhonen.korhonen, {"steps": 10, "epsilon": EPSILON}, strength=0.01, budget=EPSILON),
    "korhonen_msu": Entry(korhonen.korhonen_msu, strength=0.01, size=None),
    "perceptual": Entry(perceptual.perceptual, {"steps": 10, "weight": 0.1}, strength=0.02, **WITH_SSIM),
    "perceptual_code": Entry(perceptual.perceptual_code, {"steps": 10, "weight": 0.1}, strength=0.005, **WITH_SSIM),
    "perceptual_linf": Entry(perceptual.perceptual_linf, {"steps": 20}, strength=0.002, size=None),
    "perceptual_msu": Entry(
        perceptual.perceptual_msu,
        {"epsilon": EPSILON},
        strength=0.005,
        budget=EPSILON,
        settings_before=(perceptual.dissimilarity,),
    ),
    "perceptual_ssim": Entry(perceptual.perceptual_ssim, {"steps": 20}, strength=0.02, size=None),
    "ssah": Entry(ssah.ssah, strength=0.005, size=None),
    "stadv": Entry(stadv.stadv, size=None, strength=2.5),
    "stadv_adam": Entry(stadv.stadv_adam, size=None, strength=0.1),
    "advcf": Entry(advcf.advcf, size=None, strength=16.0),
    "advcf_adam": Entry(advcf.advcf_adam, {"steps": 20}, size=None, strength=0.01),
    "universal": Entry(universal.universal, {"pattern": PATTERN}, size=None, strength=1.0, gradients=False, aims=False),
    "facpa": Entry(universal.facpa, FACPA, strength=0.08, budget=8 / 255, gradients=False, aims=False),
    "nes": Entry(
        black_box.nes, {"steps": 8, "samples": 5, "sigma": 0.01, "step_size": 0.3, "tile": 8}, gradients=False
    ),
    "square": Entry(black_box.square, {"queries": 1000}, gradients=False),
    "square_msu": Entry(black_box.square_msu, {"queries": 1500}, gradients=False),
    "worst_case": Entry(worst_case.worst_case, {"steps": 4, "queries": 100}),
}
