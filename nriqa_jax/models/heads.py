"""The last layer of models that end in one number."""

import flax.linen as nn
from jaxtyping import Array, Float

from nriqa_jax.types import Scores


class Regression(nn.Module):
    """A linear layer to one number, with control of what random weights score.

    Attributes:
      start: initial bias; random weights score about this much.
      spread: factor on the initial kernel, for features that random weights make large.
    """

    start: float = 0.0
    spread: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "n features"]) -> Scores:
        """Multiply and add the bias."""
        initial = nn.initializers.variance_scaling(2.0 * self.spread**2, "fan_in", "normal")
        kernel = self.param("kernel", initial, (x.shape[-1], 1))
        return (x @ kernel + self.param("bias", nn.initializers.constant(self.start), (1,)))[:, 0]
