"""What a training run leaves for people: released weights with their card, test scores, a figure, medians."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments import ledger
from experiments.data_sets.data_set import DataSet
from experiments.data_sets.splits import Split
from experiments.pages.style import INK, SOFT, WIDTH, styled, to_png
from nriqa_jax.models.model import Model
from weights_convert.store import write_atomic

SELECTIONS = {
    "validation": "the epoch with the highest SROCC on the validation part; the test part was seen once, at the end",
    "test": "the epoch with the highest SROCC on the test part, as in the papers: the numbers are optimistic",
    "last": "the last epoch; the test part was seen once, at the end",
}


def command(config: Any) -> str:
    """The command line of a run, without flags at their defaults."""
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    flags = [f"--{name}={value}" for name, value in given.items() if value != defaults[name]]
    return " ".join(["python -m experiments.train_model", *flags])


def data_record(data: DataSet, split: Split) -> dict[str, Any]:
    """What must be known of the data of a run."""
    return {
        "name": data.name,
        "table": data.source,
        "images": {part: len(names) for part, names in split.names().items()},
        "split": split.name,
        "split_sha256": split.sha256(),
        **({"citation": data.known.citation, "page": data.known.page} if data.known else {}),
    }


def write_test_scores(path: Path, scores: Mapping[str, float], labels: Mapping[str, float]) -> None:
    """A row for each test image: its file, its label in the unit of the model as ``mos``, its score."""
    ledger.write_rows(path, ("image", "mos", "score"), [(name, labels[name], score) for name, score in scores.items()])


def medians(results: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Median of each metric over splits; NaN where one of them has no value."""
    columns = {name: [math.nan if row[name] is None else row[name] for row in results] for name in results[0]}
    return {name: float(np.median(np.array(column, np.float64))) for name, column in columns.items()}


def write_card(path: Path, model: Model, record: Mapping[str, Any]) -> None:
    """The card of released weights, in Markdown."""
    data, card = record["data"], model.card
    source = f"{data['citation']}, {data['page']}" if "page" in data else data["table"]
    parts = ", ".join(f"{count} to {verb}" for verb, count in _parts(data))
    low, high = record["score_range"]
    direction = "higher" if model.higher_is_better else "lower"
    numbers = "\n".join(f"| {name} | {value:.4f} |" for name, value in record["test"].items())
    text = f"""# {card.title}, trained on {data["name"]}

- **Model**: `{model.name}` ({card.citation}); scores from {low:g} to {high:g}, {direction} is better.
- **Data**: {data["name"]} ({source}); {parts}.
- **Split**: {data["split"]}; sha256 of the names of its images `{data["split_sha256"]}`.
- **Training**: loss {record["plan"]["loss"]}, defense {record["plan"]["defense"]}, {record["plan"]["epochs"]} epochs.
- **Choice of the weights**: {record["selection"]} (epoch {record["epoch"]}).
- **Licence**: code of the model: {card.code_licence}. The weights derive from the images and scores of the data set,
  whose terms hold{f" (see {data['page']})" if "page" in data else ""}, and from their initial values:
  {record["initial_weights"]}.

Test images, protocol {record["protocol"]}, without any mapping of the scores:

| metric | value |
|---|---:|
{numbers}

```console
{record["command"]}
```
"""
    write_atomic(path, text.encode())


def _parts(data: Mapping[str, Any]) -> list[tuple[str, int]]:
    verbs = {"train": "train", "validation": "choose by", "test": "test on"}
    return [(verbs[part], count) for part, count in data["images"].items() if count]


@styled
def figure(histories: Sequence[Sequence[Mapping[str, Any]]], chosen: Sequence[int], selection: str) -> Figure:
    """Loss and SROCC by epoch, a line for each split; a dot marks the chosen epoch.

    Args:
      histories: rows of the epochs of each split.
      chosen: epoch that was chosen of each, from 1.
      selection: part that the SROCC is of.
    """
    drawn = Figure((WIDTH, 2.8), layout="constrained")
    for ax, name, title in zip(drawn.subplots(1, 2), ("loss", "srocc"), ("Training loss", f"SROCC, {selection} part")):
        for rows, epoch in zip(histories, chosen):
            values = [math.nan if row.get(name) is None else row[name] for row in rows]
            ax.plot(range(1, len(values) + 1), values, color=INK if len(histories) == 1 else SOFT, lw=1.2)
            ax.plot(epoch, values[epoch - 1], color="#c85400", ls="none", marker="o", ms=4)
        ax.set_title(title)
        ax.set_xlabel("Epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def write_figure(path: Path, drawn: Figure) -> None:
    """Write a figure as a PNG file, as a whole."""
    write_atomic(path, to_png(drawn))
