"""What is measured: models, tasks, and the images that all contenders get. No framework is imported here."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

EPSILON, STEP_SIZE, STEPS = 4 / 255, 1 / 255, 10  # of attack steps, and of `ifgsm10`, whose own they are
SCORE_RANGE = 100.0  # unit of losses that are weighed against penalties; random weights have no range of their own

# Names in `experiments.catalog`, and numbers of steps: small, since images per second hardly depend on them, and with
# these the loops over single images of all attacks take some minutes. A step of vmifgsm takes six gradients.
_STEPS: Mapping[str, int] = {
    "ifgsm": STEPS,
    **dict.fromkeys(("mifgsm", "mifgsm_raw", "amifgsm", "pgd_linf", "pgd_l2", "apgd"), 5),
    **dict.fromkeys(("nifgsm", "difgsm", "tifgsm"), 5),
    "vmifgsm": 2,
    **dict.fromkeys(("madc", "madc_linf", "korhonen", "korhonen_msu"), 5),
    **dict.fromkeys(("perceptual", "perceptual_code", "perceptual_msu", "perceptual_linf", "perceptual_ssim"), 5),
    "ssah": 5,
    "stadv": 3,
    **dict.fromkeys(("stadv_adam", "advcf", "advcf_adam"), 5),
}

# Tasks that are whole attacks with settings of their own, but for the number of steps.
ATTACKS: Mapping[str, tuple[str, int]] = {f"{name}{steps}": (name, steps) for name, steps in _STEPS.items()}

# Tasks that are steps of training, with Adam and the mean absolute error, and their penalty on gradients: a key of
# `nriqa_jax.defenses.training.METHODS`. Its weight and step, and Adam's settings, are those of HyperIQA as published.
TRAINING: Mapping[str, str | None] = {
    "train": None,
    "train_fd": "finite_difference",
    "train_jvp": "jvp",
    "train_double": "double_backprop",
}
PENALTY_WEIGHT, PENALTY_STEP = 1e-3, 1e-2
LEARNING_RATE, WEIGHT_DECAY = 2e-5, 5e-4

# Height and width of the images of each model; where it takes crops, one crop.
SIZES: Mapping[str, tuple[int, int]] = {
    "hyperiqa": (224, 224),
    "resnet18": (224, 224),
    "resnet50": (224, 224),
    "cnniqa": (299, 299),
    "dbcnn": (384, 512),
    "linearity": (498, 664),
    "maniqa": (224, 224),
    "metaiqa": (224, 224),
    "spaq_bl": (224, 224),
}


@dataclasses.dataclass(frozen=True)
class Workload:
    """One thing to do, which every contender does with the same weights and the same images.

    Attributes:
      model: key of `SIZES`.
      task: ``step`` (score, pixel gradient, signed step, projection), ``folder`` (scores of image files), a key of
        `ATTACKS` (that attack raises the scores of the clean images; and the scores of the outcome) or of `TRAINING`
        (a step, and the loss before it).
      batch: images per run.
      size: height and width of the images; zeros for files.
      folder: folder of the files.
      files: their names in the folder.
    """

    model: str
    task: str
    batch: int
    size: tuple[int, int] = (0, 0)
    folder: str = ""
    files: tuple[str, ...] = ()

    def message(self) -> dict[str, Any]:
        """The workload as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, message: Mapping[str, Any]) -> "Workload":
        """The inverse of `message`."""
        return cls(**{**message, "size": tuple(message["size"]), "files": tuple(message["files"])})


CASES: Mapping[str, tuple[str, str]] = {
    **{f"{model}_{task}": (model, task) for task in ("step", "ifgsm10") for model in SIZES if model != "resnet18"},
    **{f"{model}_{task}": (model, task) for model in ("resnet18", "hyperiqa") for task in TRAINING},
    **{f"cnniqa_{task}": ("cnniqa", task) for task in ATTACKS},
    "folder": ("cnniqa", "folder"),
}

# Names for several cases.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(CASES),
    "attacks": tuple(f"cnniqa_{task}" for task in ATTACKS),
    "training": tuple(name for name, (_, task) in CASES.items() if task in TRAINING),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A contender.

    Attributes:
      target: ``module:callable``; called with device and precision, it makes the `worker.Contender`.
      options: further arguments of the callable.
      tasks: what it takes part in.
      devices: where it takes part without being asked for by name.
    """

    target: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ("step", "ifgsm10")
    devices: tuple[str, ...] = ("cpu", "gpu")


OURS, PEER = "nriqa_jax", "torch_nchw"

_OURS, _EAGER = "experiments.contenders.ours:Ours", "experiments.contenders.torch_eager:Eager"
_ONE_BY_ONE = "experiments.contenders.torch_eager:OneByOne"
CONTENDERS: Mapping[str, Entry] = {
    OURS: Entry(_OURS, tasks=("step", *ATTACKS, *TRAINING, "folder"), devices=("cpu", "gpu", "tpu")),
    # The loop kinds; what users get is the host loop on a CPU and the fused one elsewhere.
    "nriqa_jax_fused": Entry(_OURS, {"fused": True}, tasks=("ifgsm10",), devices=()),
    "nriqa_jax_host": Entry(_OURS, {"fused": False}, tasks=("ifgsm10",), devices=("gpu", "tpu")),
    "nriqa_jax_lean": Entry(_OURS, {"keep_memory": False}, tasks=("step",), devices=()),
    PEER: Entry(_EAGER, tasks=("step", "ifgsm10", *TRAINING)),
    "torch_channels_last": Entry(_EAGER, {"channels_last": True}, tasks=("step", "ifgsm10", *TRAINING)),
    "torch_reference": Entry(_ONE_BY_ONE, tasks=("step", "ifgsm10", "train_fd", "folder")),
    "torch_one_by_one": Entry(_ONE_BY_ONE, {"frozen": True}, tasks=tuple(ATTACKS)),
    "torch_compile": Entry(_EAGER, {"channels_last": True, "compiled": True}),
    "torchattacks": Entry("experiments.contenders.torch_toolbox:Toolbox", tasks=("ifgsm10",)),
}


def levels(workload: Workload) -> np.ndarray:
    """Random images ``[batch, height, width, 3]`` in [0, 1], as 8-bit files would hold them.

    The images of a small batch are the first of a larger one.
    """
    shape = (workload.batch, *workload.size, 3)
    draws = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return draws.astype(np.float32) / np.float32(255)


def labels(workload: Workload) -> np.ndarray:
    """Opinion scores of these images, made up."""
    return np.random.default_rng(2).uniform(0, 100, workload.batch).astype(np.float32)
