"""Reading reports back: HTML by section and table, Markdown by table."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def parse_page(html: str) -> ElementTree.Element:
    """The page as XML: every tag closed, every attribute quoted, ids unique."""
    root = ElementTree.fromstring(html.removeprefix("<!DOCTYPE html>").strip())
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    return root


def section_names(page: ElementTree.Element) -> list[str]:
    return [element.get("id", "") for element in page.iter("section")]


def text_of(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def table_rows(page: ElementTree.Element, table_id: str) -> list[list[str]]:
    table = page.find(f".//table[@id='{table_id}']")
    assert table is not None
    return [[text_of(cell) for cell in row] for row in table.iter("tr")]


def markdown_tables(text: str) -> list[list[list[str]]]:
    """All tables; every row of a table must have as many cells as its header."""
    tables: list[list[list[str]]] = []
    inside = False
    for line in text.splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = line.replace("\\|", "\0").strip().strip("|").split("|")
        row = [cell.strip().replace("\0", "|") for cell in cells]
        if not inside:
            tables.append([])
            inside = True
        tables[-1].append(row)
    for table in tables:
        assert set("".join(table[1])) <= set("-:"), f"no separator below {table[0]}"
        assert {len(row) for row in table} == {len(table[0])}
    return tables
