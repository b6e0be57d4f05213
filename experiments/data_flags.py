"""The settings of scripts on labelled data sets: which set, on which scale, split how."""

import dataclasses
from pathlib import Path

from experiments import cli
from experiments.catalog import DATA_SETS
from experiments.data_sets import splits
from experiments.data_sets.data_set import DataSet, Scale
from experiments.data_sets.reading import read_csv, read_folder
from experiments.data_sets.splits import Shares, Split
from experiments.make_data_set import embedded_set

EMBEDDED = "embedded"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Settings of every script on a labelled data set."""

    data: str = cli.flag(
        cli.REQUIRED, "A CSV file of images and scores, the folder of a published --data_set, or embedded."
    )
    data_set: str | None = cli.flag(None, "The published set that this is; fixes direction and range.", DATA_SETS)
    images: str = cli.flag("", "Folder that the names in a CSV file are relative to; by default its own.")
    mos_range: str = cli.flag(
        "", "Worst and best score, such as 1,5, or 100,0 where lower is better; by default the set's, or the model's."
    )
    split: str = cli.flag("", "A column of the data set's table, or a .json or .csv file; by default drawn by --seed.")
    splits: int = cli.flag(1, "How many splits to run; the numbers reported are medians.")
    shares: str = cli.flag("70,10,20", "Percentages of a drawn split: to train on, to choose an epoch by, to test on.")


def load(config: Data) -> DataSet:
    """The data set of a run.

    Raises:
      UserError: when it is not there, or not as it should be.
    """
    data = _read(config)
    if any(item.mos is None for item in data.items):
        raise cli.UserError(f"--data={config.data}: {data.name} has no subjective scores")
    if not data.items:
        raise cli.UserError(f"--data={config.data}: {data.source} lists no images")
    return dataclasses.replace(data, scale=_scale(config.mos_range)) if config.mos_range else data


def _read(config: Data) -> DataSet:
    if config.data == EMBEDDED:
        table = embedded_set()
        return dataclasses.replace(read_csv(table, table.parent), name=EMBEDDED, scale=Scale(0.0, 100.0))
    path, known = Path(config.data), DATA_SETS[config.data_set] if config.data_set else None
    if path.suffix.lower() == ".csv":
        # The names of pyiqa's tables are as good as --data_set.
        named = next((each for each in DATA_SETS.values() if each.meta_info == path.name), None)
        return read_csv(path, Path(config.images or path.parent), known or named)
    if known is None:
        names = ", ".join(DATA_SETS)
        raise cli.UserError(
            f"--data={config.data} is neither a .csv file nor embedded; of a folder, say what it is with --data_set, "
            f"one of {names}"
        )
    return read_folder(path, known)


def _scale(text: str) -> Scale:
    try:
        worst, best = (float(part) for part in text.split(","))
    except ValueError:
        worst = best = 0.0
    if worst == best:
        raise cli.UserError(f"--mos_range={text} must be two different numbers, the worst score and the best")
    return Scale(worst, best)


def split_all(config: Data, data: DataSet, seed: int, *, validation: bool) -> list[Split]:
    """The splits of a run, as many as it says.

    Args:
      config: settings.
      data: what to split.
      seed: of the first draw; the others have the numbers after it.
      validation: whether an epoch is chosen by a validation part. If not, that part is trained on, too.

    Raises:
      UserError: when a split is empty, overlaps, or is not there.
    """
    if config.splits < 1:
        raise cli.UserError(f"--splits={config.splits} must be at least 1")
    shares = _shares(config.shares)
    found = _splits(config, data, seed, shares)
    if not validation:
        return [splits.without_validation(split) for split in found]
    share = shares.validation / (shares.train + shares.validation)
    if share == 0.0 and not all(split.validation for split in found):
        raise cli.UserError(f"--shares={config.shares} leaves nothing to choose an epoch by; or give --selection=last")
    return [splits.with_validation(split, seed + number, share) for number, split in enumerate(found)]


def _splits(config: Data, data: DataSet, seed: int, shares: Shares) -> list[Split]:
    if not config.split:
        return [splits.drawn(data, seed + number, shares) for number in range(config.splits)]
    if config.split.lower().endswith((".json", ".csv")):
        found = [splits.from_file(data, Path(config.split))]
    elif config.split in splits.columns(data) or config.splits == 1:
        found = [splits.from_column(data, config.split)]
    else:  # pyiqa's ten splits are columns whose names end with their numbers
        return [splits.from_column(data, f"{config.split}_{number:02}") for number in range(1, config.splits + 1)]
    if config.splits > 1:
        raise cli.UserError(f"--splits={config.splits}, but --split={config.split} is a single one")
    return found


def _shares(text: str) -> Shares:
    try:
        shares = Shares(*(float(part) / 100.0 for part in text.split(",")))
    except (TypeError, ValueError):
        shares = Shares(0.0, 0.0, 0.0)
    if min(shares) < 0 or shares.train <= 0 or shares.test <= 0 or abs(sum(shares) - 1.0) > 1e-6:
        raise cli.UserError(f"--shares={text} must be three percentages that sum to 100, such as 70,10,20")
    return shares
