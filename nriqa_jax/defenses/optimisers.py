"""Optimisers for training recipes, from optax, as callables whose real-valued settings are data.

A `Rule` makes an optax transformation: ``Partial(optax.adam, 2e-5)``, ``Partial(adam, 2e-5, 5e-4)``. For gradients of
bounded norm: ``Partial(clipped, rule, 1.0)``. For a head that learns ten times as fast as its backbone:

    Partial(by_part, {"": Partial(adam, 2e-4), "res/": Partial(adam, 2e-5)})

For a part that is frozen: ``Partial(optax.set_to_zero)``.
"""

from collections.abc import Callable, Mapping

import jax
import optax
from jaxtyping import Array, Float, PyTree

Rule = Callable[[], optax.GradientTransformation]
Real = float | Float[Array, ""]
LearningRate = Real | Callable[[Array], Array]


def adam(learning_rate: LearningRate, weight_decay: Real = 0.0) -> optax.GradientTransformation:
    """Adam with weight decay as PyTorch's ``Adam`` has it: added to the gradient, not decoupled."""
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))


def clipped(rule: Rule, max_norm: Real) -> optax.GradientTransformation:
    """A rule on gradients whose global norm is at most ``max_norm``."""
    return optax.chain(optax.clip_by_global_norm(max_norm), rule())


def by_part(rules: Mapping[str, Rule]) -> optax.GradientTransformation:
    """A rule for each part of a network.

    Args:
      rules: by prefix of the path of a parameter, such as "res/layer1_0/conv1/kernel"; the longest one that fits holds,
        and "" fits all.

    Raises:
      ValueError: at the first use, when no prefix fits a parameter, or a prefix fits none.
    """

    def labels(params: PyTree) -> PyTree:
        found = jax.tree.map_with_path(lambda path, _: _longest(rules, _name(path)), params)
        if idle := set(rules) - {"", *jax.tree.leaves(found)}:
            raise ValueError(f"no parameter takes the rule of {', '.join(sorted(idle))}")
        return found

    return optax.partition({prefix: rule() for prefix, rule in rules.items()}, labels)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _longest(rules: Mapping[str, Rule], name: str) -> str:
    fitting = [prefix for prefix in rules if name.startswith(prefix)]
    if not fitting:
        raise ValueError(f"the parameter {name} has no rule; there are rules for {', '.join(sorted(rules))}")
    return max(fitting, key=len)
