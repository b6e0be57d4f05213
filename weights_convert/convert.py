"""Convert a PyTorch checkpoint to safetensors, strictly.

python -m weights_convert.convert --model=cnniqa --src=CNNIQA-LIVE.pth --dst=cnniqa.safetensors

Takes a second or two. Reads zip and legacy files without torch and without running anything in them, renames and
transposes every tensor, and writes only if the result is exactly the variables of the model. The report
``cnniqa.conversion.json`` beside it says which tensor went where. Ends with the scores of an embedded photograph and of
a blurred copy. With ``--verify`` and torch installed, the network is compared with PyTorch first.

Full-reference distances (``lpips_vgg``, ``lpips_alex``, ``dists``) convert likewise. Their published files hold heads
without a backbone: give torchvision's file of VGG16 or AlexNet as ``--backbone``. A file with both, such as
``lpips.LPIPS(net="vgg").state_dict()``, needs none.
"""

import dataclasses
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nriqa_jax.models.distance import Distance
from nriqa_jax.models.model import Model
from weights_convert import smoke, sources, store, torch_graphs, verify
from weights_convert.rules import CheckpointError, Conversion, Owner, Problems, expected_shapes, match_rules, unflatten
from weights_convert.sources import File
from weights_convert.tables import EVERY_LAYOUT
from weights_convert.torch_file import read_tensors

_SUFFIX = ".safetensors"


def convert_tensors(
    tensors: Mapping[str, np.ndarray], model: Owner, layout: str | None = None
) -> tuple[str, Conversion]:
    """Convert tensors to the variables of a model.

    Args:
      tensors: arrays by dotted name, as from ``read_tensors``.
      model: the model, or the distance, that the file must fit.
      layout: name of a rule table; by default the one that fits best.

    Returns:
      The name of the layout, and the converted arrays.

    Raises:
      CheckpointError: one message with everything that does not fit; also for a model without any layout.
      ValueError: for an unknown layout.
    """
    layouts = EVERY_LAYOUT.get(model.name)
    if layouts is None:
        raise CheckpointError(
            f"no PyTorch layout of '{model.name}' is known; there are tables for: {', '.join(EVERY_LAYOUT)}"
        )
    if layout is not None and layout not in layouts:
        raise ValueError(f"{model.name} has no layout '{layout}'; it has: {', '.join(layouts)}")
    if list(tensors) == ["tensor"]:
        raise CheckpointError(f"it holds one bare tensor {tensors['tensor'].shape}, not the weights of {model.name}")
    expected = expected_shapes(model)
    names = [layout] if layout else list(layouts)
    attempts = [(name, *match_rules(layouts[name].rules, tensors, expected)) for name in names]
    name, conversion, problems = min(attempts, key=lambda attempt: attempt[2].count())
    if isinstance(model, Distance) and _lacks_backbone(conversion, problems):
        raise CheckpointError(f"it holds the heads of {model.name} alone; give the backbone's file, too")
    if problems.count():
        raise CheckpointError(problems.message(f"the tensors do not fit {model.name} (layout {name})"))
    return name, conversion


def _lacks_backbone(conversion: Conversion, problems: Problems) -> bool:
    """Whether nothing but the backbone is missing, and all of it."""
    heads = conversion.arrays and not any(path.startswith("params/net/") for path in conversion.arrays)
    return bool(heads) and problems.count() == sum(path.startswith("params/net/") for path in problems.missing)


def load_torch(path: File, model: Owner, layout: str | None = None, backbone: File | None = None) -> dict[str, Any]:
    """Read a PyTorch checkpoint as nested variables, with the checks of `convert_file`, and write nothing.

    Raises:
      CheckpointError: if the file is damaged or refused, or does not fit the model.
      ValueError: as in ``convert_tensors``.
    """
    return unflatten(convert_checkpoint(path, model, layout, backbone)[1].arrays)


def in_unit_of(layout: str, model: Model) -> Model:
    """The model with the score range of weights in one of its layouts."""
    score_range = EVERY_LAYOUT[model.name][layout].score_range
    return model if score_range is None else model.with_score_range(score_range)


def convert_file(
    src: File, dst: File, model: Owner, layout: str | None = None, backbone: File | None = None
) -> dict[str, Any]:
    """Convert a checkpoint file; ``dst`` and its report are written only when everything fits.

    Args:
      src: a PyTorch checkpoint.
      dst: the file to write, ``FILE.safetensors``; the report is ``FILE.conversion.json``.
      model: the model that the file must fit.
      layout: name of a rule table; by default the one that fits best.
      backbone: file of the backbone of a distance whose heads alone are in ``src``.

    Returns:
      The report. Equal checkpoints give equal files and, but for file names, equal reports.

    Raises:
      CheckpointError: if the checkpoint is damaged or refused, or does not fit the model.
      ValueError: as in ``convert_tensors``, or if ``dst`` has another suffix.
      OSError: if ``dst`` cannot be written.
    """
    report_file = report_path(dst)
    name, conversion = convert_checkpoint(src, model, layout, backbone)
    origin = {**sources.origin(src, backbone), "layout": name}
    metadata = store.describe(in_unit_of(name, model) if isinstance(model, Model) else model) | origin
    data = store.serialize(unflatten(conversion.arrays), metadata)
    report = metadata | {"file": Path(dst).name, "sha256": _sha256(data)} | _contents(conversion)
    Path(dst).parent.mkdir(parents=True, exist_ok=True)
    # The report goes first: weights without a report never exist.
    text = re.sub(r"\[[\d,\s]+\]", lambda shape: "".join(shape[0].split()), json.dumps(report, indent=1))
    store.write_atomic(report_file, f"{text}\n".encode())
    store.write_atomic(dst, data)
    return report


def report_path(dst: str | os.PathLike) -> Path:
    """Where the report of a conversion goes.

    Raises:
      ValueError: if ``dst`` is not named like a safetensors file.
    """
    path = Path(dst)
    if path.suffix != _SUFFIX or path.is_dir():
        raise ValueError(f"the destination {path} must be a file name that ends in {_SUFFIX}")
    return path.with_suffix(".conversion.json")


def convert_checkpoint(
    path: File, model: Owner, layout: str | None = None, backbone: File | None = None
) -> tuple[str, Conversion]:
    """Name of the layout and converted arrays of a file; arguments and errors are those of `load_torch`."""
    tensors = sources.tensors_of(path, model, backbone)
    try:
        return convert_tensors(tensors, model, layout)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from None


def _contents(conversion: Conversion) -> dict[str, Any]:
    """The part of the report that lists tensors."""
    table = [
        {"source": conversion.sources[path], "variable": path, "shape": list(array.shape), "dtype": str(array.dtype)}
        for path, array in conversion.arrays.items()
    ]
    return {
        "container": conversion.container.rstrip("."),
        "total_elements": sum(array.size for array in conversion.arrays.values()),
        "tensors": table,
        "dropped": list(conversion.dropped),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main(config: Any) -> int:
    """The command, given its flags; 0 when converted, 1 for a bad checkpoint."""
    from experiments import catalog, cli  # here, because experiments imports this package

    for flag, file in (("src", config.src), ("backbone", config.backbone)):
        if file is not None and not Path(file).is_file():
            raise cli.UserError(f"--{flag}={file} is not a file; give a PyTorch checkpoint")
    model: Owner = (catalog.MODELS.get(config.model) or catalog.DISTANCES[config.model])()
    try:
        report_path(config.dst)
        agreement = _verified(config, model) if config.verify else ""
        report = convert_file(config.src, config.dst, model, config.layout, config.backbone)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        raise cli.UserError(str(error)) from None
    except OSError as error:
        raise cli.UserError(f"--dst={config.dst} cannot be written ({error.strerror or error})") from None
    count, numbers = len(report["tensors"]), report["total_elements"]
    print(f"{config.dst}: {report['model']}, layout {report['layout']}, {count} tensors, {numbers:,} numbers")
    print(*filter(None, (agreement, _smoke(report["layout"], model, config.dst))), sep="\n")
    return 0


def _verified(config: Any, model: Owner) -> str:
    """How close the converted network is to PyTorch, as a sentence.

    Raises:
      CheckpointError: when it is not close.
      ValueError: when there is nothing to compare with.
    """
    if not isinstance(model, Model) or model.name not in torch_graphs.GRAPHS:
        known = ", ".join(torch_graphs.GRAPHS)
        raise ValueError(f"--verify: there is no PyTorch network of {model.name}, only of {known}")
    tensors = read_tensors(config.src)
    _, conversion = convert_tensors(tensors, model, config.layout)
    try:
        found = verify.against_torch(model, tensors, conversion)
    except ModuleNotFoundError:
        raise ValueError("--verify needs PyTorch; pip install torch") from None
    differences = f"outputs differ by {found.outputs:.1e}, input gradients by {found.gradients:.1e} of their size"
    if not found.holds():
        raise CheckpointError(f"{config.src}: the converted network is not that of PyTorch: {differences}")
    return f"as in PyTorch: {differences}"


def _smoke(layout: str, model: Owner, path: str | os.PathLike) -> str:
    """What the converted weights say of a photograph, as a sentence."""
    try:
        if isinstance(model, Distance):
            return smoke.distances(model, path)
        return smoke.scores(in_unit_of(layout, model), path)
    except ModuleNotFoundError:
        return "no photograph was scored: scikit-image, which brings one, is not installed"


def _run_command() -> None:
    """Read the flags and run ``main``."""
    from experiments import cli

    @dataclasses.dataclass(frozen=True)
    class Config:
        model: str = cli.flag(cli.REQUIRED, "Model or distance that the checkpoint belongs to.", choices=EVERY_LAYOUT)
        src: str = cli.flag(cli.REQUIRED, "PyTorch checkpoint to read (.pth, .pt or .pkl).")
        dst: str = cli.flag(cli.REQUIRED, "File to write; its name ends in .safetensors.")
        layout: str | None = cli.flag(None, "Naming scheme of the checkpoint; by default the one that fits best.")
        backbone: str | None = cli.flag(None, "PyTorch file of a distance's backbone, where --src has the heads alone.")
        verify: bool = cli.flag(False, "Compare outputs and input gradients with PyTorch, which must be installed.")

    cli.run(Config, main)


if __name__ == "__main__":
    _run_command()
