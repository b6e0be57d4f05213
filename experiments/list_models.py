"""List the models of the zoo: what a reader of their scores must know.

python -m experiments.list_models

The README has the same table; `python -m experiments.list_models --update=README.md` refreshes it.
"""

import dataclasses
from pathlib import Path

from experiments import cli, text_table
from experiments.catalog import MODELS
from nriqa_jax.models.model import Model
from weights_convert.store import write_atomic

BEGIN, END = "<!-- models -->", "<!-- /models -->"
COLUMNS = ("model", "year", "parameters", "scores", "better", "native size", "protocols", "trained on", "licences")
_NUMBERS = (1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of a listing."""

    format: str = cli.flag("text", "How the table is printed.", ("text", "markdown"))
    update: str = cli.flag("", f"Text file to write the Markdown table into, between {BEGIN} and {END}.")


def rows() -> list[tuple[str, ...]]:
    """One row of cells per model, in the order of the catalog."""
    return [_row(build()) for build in MODELS.values()]


def _row(model: Model) -> tuple[str, ...]:
    card, (low, high) = model.card, model.score_range
    return (
        model.name,
        str(card.year),
        f"{card.parameters:,}",
        f"{low:g}..{high:g}",
        "higher" if model.higher_is_better else "lower",
        "{}x{}".format(*card.native_size),
        ", ".join(protocol.name for protocol in model.protocols),
        card.training_data,
        f"code: {card.code_licence}; weights: {card.weights_licence}",
    )


def markdown() -> str:
    """The table as the README shows it."""
    return text_table.markdown([COLUMNS, *((f"`{name}`", *cells) for name, *cells in rows())], _NUMBERS)


def run(config: Config) -> str:
    """The table as text, after writing it into the file that is to be updated.

    Raises:
      cli.UserError: when that file has no place for it.
    """
    if config.update:
        before, begin, rest = Path(config.update).read_bytes().partition(BEGIN.encode())
        _, end, after = rest.partition(END.encode())
        if not end:
            raise cli.UserError(f"--update={config.update}: a file with {BEGIN} and, below it, {END} is wanted")
        write_atomic(config.update, b"".join([before, begin, f"\n{markdown()}\n".encode(), end, after]))
    return markdown() if config.format == "markdown" else text_table.plain([COLUMNS, *rows()], _NUMBERS)


def main(config: Config) -> int:
    """Print the table."""
    print(run(config))
    return 0


if __name__ == "__main__":
    cli.run(Config, main)
