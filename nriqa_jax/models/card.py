"""What a model card says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """What is known of a model and of its published weights.

    Attributes:
      title: name in the literature.
      citation: paper that defines the model.
      year: of the paper.
      training_data: what the published weights were trained on.
      score_range: nominal lowest and highest score; scores of attacked images may leave it.
      higher_is_better: whether a higher score means better quality.
      parameters: number of trained numbers, without running statistics.
      native_size: (height, width) that the network was trained at.
      code_licence: licence of the reference implementation.
      weights_licence: licence of the published weights.
      quirks: what surprises users of the published code, and what is done about it here; one sentence each.
    """

    title: str
    citation: str
    year: int
    training_data: str
    score_range: tuple[float, float]
    higher_is_better: bool
    parameters: int
    native_size: tuple[int, int]
    code_licence: str
    weights_licence: str
    quirks: tuple[str, ...] = ()
