"""Model cards: what a reader of scores must know of each model. Data only; `Model.card` carries one."""

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


CNNIQA = Card(
    title="CNNIQA",
    citation="Kang et al., Convolutional Neural Networks for No-Reference Image Quality Assessment, CVPR 2014",
    year=2014,
    training_data="LIVE (DMOS)",
    score_range=(0.0, 100.0),
    higher_is_better=False,
    parameters=724_901,
    native_size=(32, 32),
    code_licence="none stated (PyTorch reimplementation by lidq92)",
    weights_licence="none stated",
    quirks=("The published loop over patches leaves the last row and column of patches out where 32 divides a side.",),
)

HYPERIQA = Card(
    title="HyperIQA",
    citation="Su et al., Blindly Assess Image Quality in the Wild Guided by a Self-Adaptive Hyper Network, CVPR 2020",
    year=2020,
    training_data="KonIQ-10k (authors' weights); LIVE Challenge (gradient-norm training weights)",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=27_375_369,
    native_size=(224, 224),
    code_licence="MIT",
    weights_licence="not stated by the authors; trained on KonIQ-10k",
    quirks=(
        "The authors draw 25 crops anew in every run; crops are repeatable here.",
        "Weights of pyiqa score about 0..1 instead of 0..100; the range follows the file.",
    ),
)

TINYIQA = Card(
    title="TinyIQA",
    citation="this project",
    year=2026,
    training_data="250 NIPS 2017 photographs, distorted; labels are MS-SSIM to the pristine photograph",
    score_range=(0.0, 100.0),
    higher_is_better=True,
    parameters=205_881,
    native_size=(299, 299),
    code_licence="Apache-2.0",
    weights_licence="Apache-2.0; trained on CC-BY photographs",
    quirks=("A stand-in for demonstrations and tests, not a state-of-the-art metric.",),
)
