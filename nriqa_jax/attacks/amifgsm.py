"""AMI-FGSM with the radius of its paper: worse images hide larger changes."""

from jax.tree_util import Partial

from nriqa_jax.attacks.composite import Adapted
from nriqa_jax.attacks.perturbations import Radius
from nriqa_jax.attacks.presets import STEPS, amifgsm
from nriqa_jax.metrics.niqe import Pristine, niqe
from nriqa_jax.types import Images, Objective, Scores


def amifgsm_niqe(objective: Objective, *, scale: Radius = 0.5, steps: int = STEPS, natural: Pristine) -> Adapted:
    """AMI-FGSM with a radius of its own for each image, a constant over its NIQE (Sang et al., 2022).

    Args:
      objective: what to minimise.
      scale: radius of an image whose NIQE is 1, in units of the pixel range.
      steps: number of steps.
      natural: the model of natural images of NIQE.
    """
    return Adapted(
        objective, lambda radius: amifgsm(objective, epsilon=radius, steps=steps), Partial(_radius, scale, natural)
    )


def _radius(scale: Radius, natural: Pristine, images: Images) -> Scores:
    return scale / niqe(images, natural)
