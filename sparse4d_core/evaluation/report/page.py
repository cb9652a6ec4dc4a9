"""The HTML of the report: text, tables, figures and pictures in one file that fetches nothing."""

from __future__ import annotations

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1260px; padding: 28px 24px 80px; color: #1c2530; background: #fff;
       font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 44px 0 10px; padding-top: 10px; border-top: 1px solid #dde3ea; }
p.note { color: #5a6675; margin: 4px 0 12px; max-width: 78ch; }
nav a { margin-right: 14px; color: #1f5fb0; text-decoration: none; white-space: nowrap; }
table { border-collapse: collapse; margin: 8px 0 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid #e8ecf1; }
th { color: #5a6675; font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.strong td { font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 20px 36px; align-items: flex-start; }
img.figure { max-width: 100%; height: auto; }
.figures > img.figure { flex: 1 1 360px; min-width: 320px; max-width: 560px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 18px; }
.pictures figure { margin: 0; }
.pictures img { width: 100%; display: block; border-radius: 4px; background: #333; }
figcaption { font-size: 13px; color: #5a6675; overflow-wrap: anywhere; }
figcaption b { color: #1c2530; }
.empty { padding: 90px 0; text-align: center; color: #ddd; background: #333; border-radius: 4px; font-size: 13px; }
ul { max-width: 90ch; }
"""


class Page:
    """Collects sections; `text` is the whole file."""

    def __init__(self, title: str, subtitle: str):
        self._title, self._subtitle = title, subtitle
        self._sections: list[tuple[str, str]] = []

    def add(self, heading: str, *parts: str) -> None:
        """A section; the parts are HTML."""
        self._sections.append((heading, "\n".join(parts)))

    def text(self) -> str:
        links = "".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name, _ in self._sections)
        body = "\n".join(f'<h2 id="{anchor(name)}">{escape(name)}</h2>\n{content}' for name, content in self._sections)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(self._title)}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style></head>\n'
            f'<body><h1>{escape(self._title)}</h1>\n<p class="note">{escape(self._subtitle)}</p>\n<nav>{links}</nav>\n'
            f"{body}\n</body></html>\n"
        )


def escape(text: object) -> str:
    return html.escape(str(text))


def anchor(heading: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in heading.lower())


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def listing(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], strong: int = 0) -> str:
    """Rows of cells; the first `strong` of them stand out."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=strong' if number < strong else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figures(*pictures: str) -> str:
    return f'<div class="figures">{"".join(pictures)}</div>'


def number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"
