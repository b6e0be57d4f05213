r"""Build a set of attacked images: models x attacks x radii on a folder of images, with a manifest of all files.

python -m experiments.build_attack_set --models=tinyiqa:embedded,cnniqa:CNNIQA.pth --images=PHOTOGRAPHS --out=out/set \
    --attacks=ifgsm:steps=10,korhonen,advcf --epsilons=2/255,4/255,8/255

Attacks take the flags of attack_images as settings. One that sets its own epsilon, strength or match_* runs once at
that; every other runs at each of --epsilons, which is its radius where it has one, and else what its strength is
searched for. Writes a run folder of attack_images for each combination, and manifest.csv: the path, sha256, source,
attack and scores of each attacked image. Run again, it says which files changed since, and goes on where it was;
--verify says it and does nothing else. experiments.benchmark takes such a folder as --attack_set.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from experiments import attack_flags, attack_images, cli, ledger, listed, pipeline, processes
from experiments.catalog import ATTACKS, OBJECTIVES
from experiments.matrix import manifest, spelled
from experiments.matrix.plan import Source
from experiments.pages import run_files
from experiments.settings import describe

_OWN_BUDGET = {"epsilon", "strength", *attack_flags.COSTS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(cli.Machine):
    """Settings of a set."""

    models: str = cli.flag("", "Models as NAME:WEIGHTS[:protocol=PROTOCOL], separated by commas.")
    attacks: str = cli.flag("", "Attacks as NAME:SETTING=VALUE:..., separated by commas.")
    epsilons: str = cli.flag("4/255", "Largest changes of a pixel value, separated by commas.")
    images: str = cli.flag("", "Folder of images (with its sub-folders), or one image file.")
    out: str = cli.flag(cli.REQUIRED, "Folder of the set; the same command run again continues an interrupted run.")
    objective: str = cli.flag("raise_quality", "What attacks do to scores.", [o for o in OBJECTIVES if o != "target"])
    verify: bool = cli.flag(False, "Only compare the files of a set that is there with its manifest.")
    batch_size: int = cli.flag(0, "Largest number of images computed together on a device; 0 is as memory allows.")
    seed: int = cli.flag(0, "Seed of random weights, starts and noise.")


class Built(NamedTuple):
    """A set of attacked images.

    Attributes:
      rows: of its manifest.
      failed: how many images could not be attacked, counted for each attack.
    """

    rows: list[ledger.Row]
    failed: int


def run(config: Config) -> Built:
    """Attack images into ``config.out`` in all ways that are not there yet."""
    missing = [f"--{name}" for name in ("models", "attacks", "images") if not getattr(config, name)]
    if missing:
        raise cli.UserError(f"missing {', '.join(missing)}; see --help")
    attacks, models = _attacks(config), listed.load_models(config.models, config.seed)
    out, listings = Path(config.out), listed.read_models(config.models)
    smallest = max(found.model.preprocess.min_side for found in models.values())
    images = pipeline.survey(Path(config.images), out, smallest)
    runs = {
        Source(name, attack): _run_config(config, name, one, attack)
        for name, one in listings.items()
        for attack in attacks
    }
    for own in runs.values():
        attack_images.attack_maker(own, models[own.model].model)  # refuses what would fail after hours
    ledger.open_run(out, pipeline.run_config("build_attack_set", config, images, _details(models)))
    rows = [row for row in manifest.read(out) if (out / manifest.part_of(row)).is_dir()]
    manifest.verify(out, images.root, rows)
    todo = [source for source in runs if not manifest.is_complete(out, source, images.names, rows)]
    for number, source in enumerate(todo, 1):
        _say(f"{number} of {len(todo)}: {source.folder}")
        attack_images.run(runs[source])
        if processes.is_first():
            new = manifest.describe(out, source, models[runs[source].model].sha256, images.root)
            rows = [row for row in rows if manifest.part_of(row) != source.folder] + new
            manifest.write(out, _in_order(rows, list(runs)))
    tables = (manifest.attacked(out, source).rows.values() for source in runs)
    return Built(_in_order(rows, list(runs)), sum(row["status"] == "failed" for table in tables for row in table))


def _attacks(config: Config) -> list[spelled.Spelled]:
    """All attacks with their budgets."""
    radii = listed.parts(config.epsilons)
    for text in radii:
        cli.parse_epsilon(text, "epsilons")
    texts = []
    for one in spelled.read("attacks", config.attacks, ATTACKS):
        if _OWN_BUDGET & dict(one.settings).keys():
            texts.append(one.text)
            continue
        if not radii:
            raise cli.UserError(f"--epsilons is empty, and --attacks: {one.text} has no epsilon of its own")
        bounds = [attack_flags.bounded(one.name, radius) for radius in radii]
        texts += [f"{one.text}:{name}={radius}" for bound in bounds for name, radius in bound.items()]
    return spelled.read("attacks", ",".join(texts), ATTACKS)


def _run_config(
    config: Config, model: str, listing: listed.ListedModel, attack: spelled.Spelled
) -> attack_images.Config:
    """The settings of the run that makes a part of the set."""
    out = str(Path(config.out) / Source(model, attack).folder)
    own: dict[str, Any] = {"model": model, **listing._asdict(), "images": config.images, "out": out}
    shared = {"batch_size": config.batch_size, "seed": config.seed, **cli.machine_of(config)}
    return dataclasses.replace(spelled.attack(attack, config.objective), **own, **shared)


def _details(models: dict[str, listed.LoadedModel]) -> dict[str, Any]:
    described = {name: {**describe(found.model), "sha256": found.sha256} for name, found in models.items()}
    return {"models": described, **ledger.provenance("highest")}


def _in_order(rows: list[ledger.Row], sources: list[Source]) -> list[ledger.Row]:
    """By model and attack as flags list them, then by image."""
    position = {source.folder: number for number, source in enumerate(sources)}
    return sorted(rows, key=lambda row: (position[manifest.part_of(row)], row["source"]))


def _say(text: str) -> None:
    if processes.is_first():
        print(text, flush=True)


def check(out: Path, images: str = "") -> str:
    """Compare a set with its manifest; returns what was found to be the same.

    Args:
      out: folder of the set.
      images: the clean images; by default where they were.

    Raises:
      cli.UserError: when files changed, or the folder holds no set.
    """
    config, rows = run_files.read_json(out / "config.json", manifest.SET), manifest.read(out)
    root = Path(images or config.get("images_root", ""))
    at_hand = bool(images) or root.exists()
    manifest.verify(out, root if at_hand else None, rows)
    sources = "their sources" if at_hand else f"their scores (the sources are not at {root})"
    return f"{len(rows)} attacked images and {sources} are as {out / manifest.SET.table} lists them"


def main(config: Config) -> int:
    """Build a set or check it, and say how it went."""
    if config.verify:
        print(check(Path(config.out), config.images))
        return 0
    built = run(config)
    _say(f"{len(built.rows)} attacked images, {built.failed} failed; see {config.out}/{manifest.SET.table}")
    return int(built.failed > 0)


if __name__ == "__main__":
    cli.run(Config, main)
