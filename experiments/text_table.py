"""Tables of words on the terminal and in Markdown; the first row is the header."""

import itertools
import textwrap
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def plain(rows: Rows, right: Sequence[int] = (), width: int = 36) -> str:
    """Aligned columns.

    Args:
      rows: cells.
      right: columns of numbers.
      width: from which on cells go on in the next line, at a space.
    """
    wrap = textwrap.TextWrapper(width, break_on_hyphens=False, break_long_words=False).wrap
    wrapped = [[wrap(cell) or [""] for cell in row] for row in rows]
    lines = [list(line) for row in wrapped for line in itertools.zip_longest(*row, fillvalue="")]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(max(map(len, wrapped[0])), ["-" * width for width in widths])
    pad = [str.rjust if column in right else str.ljust for column in range(len(widths))]
    return "\n".join("  ".join(p(cell, width) for p, cell, width in zip(pad, line, widths)).rstrip() for line in lines)


def markdown(rows: Rows, right: Sequence[int] = ()) -> str:
    """A Markdown table.

    Args:
      rows: cells; a bar in one of them is escaped.
      right: columns of numbers.
    """
    rule = ["---:" if column in right else "---" for column in range(len(rows[0]))]
    head, *body = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|" + "|".join(rule) + "|", *body])
