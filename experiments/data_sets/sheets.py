"""Spreadsheets (.xlsx) as rows of text: the few data sets whose scores are kept so need no more."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LINK = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_sheet(path: Path, name: str = "") -> list[list[str]]:
    """Rows of a sheet, without the empty ones; cells that are not there are "".

    Args:
      path: an .xlsx file.
      name: of the sheet; "" for the first one.

    Raises:
      ValueError: when the file is no spreadsheet, or has no such sheet; the message is the end of a sentence.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = _shared_texts(book)
            tree = ElementTree.fromstring(book.read(_sheet_file(book, name)))
        rows = [_row(row, texts) for row in tree.iter(f"{_MAIN}row")]
    except (zipfile.BadZipFile, KeyError, IndexError, ElementTree.ParseError) as error:
        raise ValueError(f"{path.name} is not a spreadsheet as expected: {error.args[0]}") from error
    return [row for row in rows if any(row)]


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    """The texts that cells refer to by number."""
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    tree = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
    return [_text(entry) for entry in tree.iter(f"{_MAIN}si")]


def _sheet_file(book: zipfile.ZipFile, name: str) -> str:
    sheets = list(ElementTree.fromstring(book.read("xl/workbook.xml")).iter(f"{_MAIN}sheet"))
    by_name = {sheet.attrib["name"]: sheet.attrib[_LINK] for sheet in sheets}
    if name and name not in by_name:
        raise KeyError(f"it has no sheet '{name}'")
    link = by_name[name] if name else sheets[0].attrib[_LINK]
    links = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    target = {entry.attrib["Id"]: entry.attrib["Target"] for entry in links}[link]
    return target.lstrip("/") if target.startswith("/") else f"xl/{target}"


def _row(row: ElementTree.Element, texts: Sequence[str]) -> list[str]:
    cells: dict[int, str] = {}
    for place, cell in enumerate(row.iter(f"{_MAIN}c")):
        cells[_column(cell.get("r", ""), place)] = _value(cell, texts)
    return [cells.get(column, "") for column in range(max(cells, default=-1) + 1)]


def _column(reference: str, default: int) -> int:
    """Number of a column, from 0, by a reference such as B7."""
    letters = re.match("[A-Z]+", reference)
    if letters is None:
        return default
    number = 0
    for letter in letters[0]:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, texts: Sequence[str]) -> str:
    if cell.get("t") == "inlineStr":
        return _text(cell)
    value = cell.findtext(f"{_MAIN}v", "")
    return texts[int(value)] if cell.get("t") == "s" else value


def _text(element: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in element.iter(f"{_MAIN}t"))
