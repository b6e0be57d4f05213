r"""Make a labelled data set from pristine photographs, with no download.

python -m experiments.make_data_set --out=out/embedded_set
python -m experiments.make_data_set --images=PHOTOGRAPHS --out=out/my_set

Each photograph is distorted in the 25 ways of KADID-10k at five levels (see ``experiments.kadid``), and all 126
versions are labelled by MS-SSIM. Writes PNG files and meta_info.csv, which ``experiments.train_model`` takes as --data.
Run again, it continues where it was.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from experiments import cli, ledger, photographs, pipeline, records
from experiments.data_sets import synthetic
from experiments.distortions import Distortion
from experiments.kadid import KADID

EMBEDDED = "embedded_set_1"  # another number whenever its images or labels change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of a data set."""

    images: str = cli.flag("", "Folder of pristine photographs; by default the seven that come along.")
    out: str = cli.flag(cli.REQUIRED, "Folder to write.")
    kinds: str = cli.flag("", "Numbers of the kinds of distortion, such as 1,10,11; by default all 25.")


def run(config: Config) -> Path:
    """Make the set; returns its table."""
    out, kinds = Path(config.out), chosen(config.kinds)
    sources = _from_folder(Path(config.images), out) if config.images else embedded_photographs()
    settings = {"script": "make_data_set", "kinds": list(kinds), "photographs": list(sources)}
    ledger.open_run(out, settings)
    return synthetic.write_set(out, sources, kinds)


def embedded_set() -> Path:
    """The table of the embedded set, which is made at its first use and kept beside the compiled programs."""
    folder = cli.cache_home() / EMBEDDED
    return synthetic.write_set(folder, embedded_photographs(), KADID)


def embedded_photographs() -> dict[str, synthetic.Photograph]:
    """The photographs that come along."""
    loaded = photographs.load()
    return {name: partial(loaded.__getitem__, name) for name in loaded}


def _from_folder(root: Path, out: Path) -> dict[str, synthetic.Photograph]:
    """The photographs of a folder, by names that stay apart without their suffixes."""
    images = pipeline.survey(root, out, synthetic.MIN_SIDE)
    if images.failures:
        name, why = next(iter(images.failures.items()))
        raise cli.UserError(f"--images={root}: {name} {why.replace('this model', 'MS-SSIM')}")
    names = ledger.adversarial_names(images.names)
    return {
        names[name].removesuffix(".png"): partial(records.load_image, records.image_path(root, name))
        for name in images.names
    }


def chosen(kinds: str) -> Mapping[str, Distortion]:
    """The kinds of distortion with some numbers; all, where none are given.

    Raises:
      UserError: when there is no such number.
    """
    if not kinds:
        return KADID
    known = {int(name[:2]): name for name in KADID}
    numbers = [int(text) if text.strip().isdigit() else 0 for text in kinds.split(",")]
    if not set(numbers) <= set(known):
        raise cli.UserError(f"--kinds={kinds} must be numbers from 1 to {len(known)}, such as 1,10,11")
    return {known[number]: KADID[known[number]] for number in sorted(set(numbers))}


def main(config: Config) -> int:
    """Make the set, and say where it is."""
    table = run(config)
    print(f"{len(table.read_text().splitlines()) - 1} images; see {table}")
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
