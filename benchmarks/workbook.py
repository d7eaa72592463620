"""The results that the experiments of Dr. DRL publish as workbooks (Haj Yahmed et al., 2023, arXiv 2308.12445)."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

_SHEET: Final = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def runs(workbook: Path) -> Iterator[dict[str, Any]]:
    """The rows of the first sheet by the names in its first one; all but the `instance` are numbers."""
    with zipfile.ZipFile(workbook) as book:
        parts = [book.read(f"xl/{name}.xml") for name in ("sharedStrings", "worksheets/sheet1")]
    shared, sheet = map(ElementTree.fromstring, parts)
    texts = ["".join(part.text or "" for part in entry.iter(f"{_SHEET}t")) for entry in shared]
    lines = []
    for row in sheet.iter(f"{_SHEET}row"):
        cells = [(cell.get("t"), cell.findtext(f"{_SHEET}v", "")) for cell in row]
        lines.append([texts[int(value)] if kind == "s" else value for kind, value in cells])
    head = [name.strip("'") for name in lines[0]]
    for line in lines[1:]:
        if line and line[0]:
            yield {name: value if name == "instance" else float(value) for name, value in zip(head, line, strict=False)}
