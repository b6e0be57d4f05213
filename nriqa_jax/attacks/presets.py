"""Named attacks: compositions of an objective, a perturbation set, an update rule and a number of steps.

``epsilon`` and ``step_size`` are in units of the pixel range [0, 1]. A step size that is not given is
2.5 epsilon / steps, which reaches any point of the ball with room to turn. A preset only builds an attack; calling the
attack runs it: ``pgd_linf(raise_score(), epsilon=4 / 255)(score_fn, images, keys)``.
"""

import jax.numpy as jnp
from jax.tree_util import Partial

from nriqa_jax.attacks import update_rules
from nriqa_jax.attacks.gradient import GradientAttack
from nriqa_jax.attacks.perturbations import Radius, l2, linf
from nriqa_jax.attacks.restarts import Restarts
from nriqa_jax.types import Objective

EPSILON = 4 / 255
STEPS = 10


def fgsm(objective: Objective, *, epsilon: Radius = EPSILON) -> GradientAttack:
    """One step along the sign of the gradient (Goodfellow et al., ICLR 2015)."""
    rule = Partial(update_rules.sign_descent, epsilon)
    return GradientAttack(objective, linf(epsilon), rule, steps=1)


def ifgsm(
    objective: Objective, *, epsilon: Radius = EPSILON, step_size: Radius | None = None, steps: int = STEPS
) -> GradientAttack:
    """Iterated FGSM from the clean image (Kurakin et al., 2017)."""
    rule = Partial(update_rules.sign_descent, _step(epsilon, step_size, steps))
    return GradientAttack(objective, linf(epsilon), rule, steps)


def mifgsm(
    objective: Objective,
    *,
    epsilon: Radius = EPSILON,
    step_size: Radius | None = None,
    steps: int = STEPS,
    decay: float = 1.0,
) -> GradientAttack:
    """FGSM with momentum on normalised gradients (Dong et al., CVPR 2018)."""
    rule = Partial(update_rules.momentum_sign_descent, _step(epsilon, step_size, steps), decay)
    return GradientAttack(objective, linf(epsilon), rule, steps)


def mifgsm_raw(
    objective: Objective,
    *,
    epsilon: Radius = EPSILON,
    step_size: Radius | None = None,
    steps: int = STEPS,
    decay: float = 1.0,
) -> GradientAttack:
    """MI-FGSM (2018) with momentum on raw gradients, the variant of the MSU robustness benchmark."""
    rule = Partial(update_rules.raw_momentum_sign_descent, _step(epsilon, step_size, steps), decay)
    return GradientAttack(objective, linf(epsilon), rule, steps)


def amifgsm(objective: Objective, *, epsilon: Radius = EPSILON, steps: int = STEPS) -> GradientAttack:
    """AMI-FGSM (Sang et al., 2022) as in the MSU benchmark: raw momentum, and steps that add up to the radius."""
    return mifgsm_raw(objective, epsilon=epsilon, step_size=epsilon / steps, steps=steps)


def pgd_linf(
    objective: Objective,
    *,
    epsilon: Radius = EPSILON,
    step_size: Radius | None = None,
    steps: int = STEPS,
    restarts: int = 1,
) -> GradientAttack | Restarts:
    """Projected gradient descent in the L-infinity ball from random starts (Madry et al., ICLR 2018)."""
    rule = Partial(update_rules.sign_descent, _step(epsilon, step_size, steps))
    return _restarted(GradientAttack(objective, linf(epsilon, random_start=True), rule, steps), restarts)


def pgd_l2(
    objective: Objective,
    *,
    epsilon: Radius = 1.0,
    step_size: Radius | None = None,
    steps: int = STEPS,
    restarts: int = 1,
) -> GradientAttack | Restarts:
    """Projected gradient descent in the L2 ball from random starts (Madry et al., ICLR 2018)."""
    rule = Partial(update_rules.unit_l2_descent, _step(epsilon, step_size, steps))
    return _restarted(GradientAttack(objective, l2(epsilon, random_start=True), rule, steps), restarts)


def apgd(
    objective: Objective, *, epsilon: Radius = EPSILON, steps: int = STEPS, restarts: int = 1
) -> GradientAttack | Restarts:
    """Auto-PGD in the L-infinity ball: no step size to choose; keeps the best iterate (Croce & Hein, ICML 2020).

    The paper makes 100 steps, the first ones of twice the radius. With as few as 10, fixed small steps (`ifgsm`) can
    win.
    """
    checkpoints = jnp.asarray(update_rules.apgd_checkpoints(steps))
    rule = Partial(update_rules.apgd_descent, 2.0 * epsilon, checkpoints)
    attack = GradientAttack(objective, linf(epsilon, random_start=True), rule, steps, keep_best=True)
    return _restarted(attack, restarts)


def _step(epsilon: Radius, step_size: Radius | None, steps: int) -> Radius:
    """The step size: by default one that crosses the ball and leaves room to turn, 2.5 epsilon / steps."""
    return 2.5 * epsilon / steps if step_size is None else step_size


def _restarted(attack: GradientAttack, restarts: int) -> GradientAttack | Restarts:
    return attack if restarts == 1 else Restarts(attack, restarts)


pgd = pgd_linf
