"""HTML pieces of the report: sections, figures, tables, and the one file that holds them and their libraries.

Everything a browser needs is inside the page: plotly.js once, the DataTables library that itables ships once,
pictures as data URIs. A content security policy in its head forbids any request, whatever a script tries.
"""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import itables
import plotly.graph_objects as go
import plotly.offline

from flowlab.study.page.style import AutoencoderStyle, ae_style

__all__ = [
    "Block",
    "Column",
    "Key",
    "Panel",
    "Toggle",
    "ae_chip",
    "data_table",
    "document",
    "escape",
    "figure",
    "notice",
    "picture_uri",
    "plain_table",
    "section",
]


# ---- what a report is made of ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plotly figure of a group that share a caption."""

    title: str
    """Plain text above the axes; "" for none."""
    figure: go.Figure
    """Its traces may carry `meta`, a dict that toggles and keys select by."""
    ae: str | None = None
    """Draws the autoencoder's marker before the title."""
    wide: bool = False
    """Takes the whole row."""


@dataclass(frozen=True, kw_only=True)
class Toggle:
    """Buttons of which one is down; a trace shows where its meta has that value, or lacks the name."""

    name: str
    """Key of the traces' meta."""
    options: Mapping[str, str]
    """Value -> label; the value "*" lets everything through."""
    start: str
    """The value that is down when the page opens."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One entry of a legend; pressing it hides the traces whose meta matches."""

    label: str
    colour: str
    name: str
    """Key of the traces' meta."""
    value: str
    """Its value."""
    symbol: str | None = None
    """Plotly marker name; None draws a line."""
    dash: str = "solid"
    """Of the line: solid, dot or dash."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a data table."""

    title: str
    kind: str = "text"
    """text, number, measure (a pair value, standard error), ae (a name drawn with its marker)."""
    digits: int | None = None
    """Decimals shown; None shows up to six significant digits."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One section of the report."""

    name: str
    """Anchor."""
    title: str
    how: str
    """Two lines for a newcomer: how to read it. HTML."""
    parts: Sequence[str] = field(default_factory=tuple)
    """HTML pieces, in order."""


# ---- the document ------------------------------------------------------------------------------------------


def document(*, title: str, header: str, blocks: Sequence[Block]) -> str:
    """The whole page as one string of HTML."""
    body = "\n".join(section(block) for block in blocks)
    links = "\n".join(f'<li><a href="#{block.name}">{escape(block.title)}</a></li>' for block in blocks)
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            '<link rel="icon" href="data:,">',
            f"<style>{_library_css()}</style>",
            f"<style>{_asset('page.css')}</style>",
            f"<script>{plotly.offline.get_plotlyjs()}</script>",
            "</head><body>",
            f'<header class="top">{header}</header>',
            '<div class="columns">',
            '<nav class="contents" aria-label="Contents"><details open><summary>Contents</summary>',
            f"<ol>{links}</ol></details></nav>",
            f"<main>{body}</main>",
            "</div>",
            '<dialog class="viewer"><img alt=""></dialog>',
            f'<script type="application/octet-stream" id="datatables-library">{_library_js()}</script>',
            f"<script>{_asset('page.js')}</script>",
            "</body></html>",
        ]
    )


_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
)


def _asset(name: str) -> str:
    return (files("flowlab.study.page") / name).read_text(encoding="utf-8")


def _library_css() -> str:
    return (files(itables) / "html" / "dt_bundle.css").read_text(encoding="utf-8")


def _library_js() -> str:
    """The DataTables module in base64: the page imports it from a blob."""
    return base64.b64encode((files(itables) / "html" / "dt_bundle.js").read_bytes()).decode()


# ---- sections, figures -------------------------------------------------------------------------------------


def section(block: Block) -> str:
    """A section with its heading, its reading aid and its parts."""
    parts = "\n".join(block.parts)
    how = f'<p class="how"><span>How to read it</span>{block.how}</p>' if block.how else ""
    return f'<section id="{block.name}"><h2>{escape(block.title)}</h2>{how}{parts}</section>'


def notice(text: str) -> str:
    """A line that says what is missing, in place of what would have stood there."""
    return f'<p class="notice">{escape(text)}</p>'


def figure(
    name: str,
    label: str,
    caption: str,
    panels: Sequence[Panel],
    *,
    toggles: Sequence[Toggle] = (),
    keys: Sequence[Key] = (),
) -> str:
    """A captioned group of panels with one legend; `label` such as "Figure 1", `caption` HTML.

    The panels wrap with the width of the window.
    """
    controls = "".join(_toggle(toggle) for toggle in toggles) + _legend(keys)
    graphs = "".join(_panel(f"{name}-{i}", panel) for i, panel in enumerate(panels))
    return (
        f'<figure class="plots" id="{name}">'
        + (f'<div class="controls">{controls}</div>' if controls else "")
        + f'<div class="panels" data-count="{len(panels)}">{graphs}</div>'
        + f"<figcaption><b>{escape(label)}.</b> {caption}</figcaption></figure>"
    )


def _panel(name: str, panel: Panel) -> str:
    mark = swatch(ae_style(panel.ae)) if panel.ae else ""
    title = f'<div class="panel-title">{mark}{escape(panel.title)}</div>' if panel.title else ""
    drawing = json.dumps(json.loads(panel.figure.to_json() or "{}"), separators=(",", ":")).replace(
        "</", "<\\/"
    )
    height = panel.figure.layout["height"]
    kind = "panel wide" if panel.wide else "panel"
    return (
        f'<div class="{kind}">{title}<div class="plot" id="{name}" style="height:{height}px" role="img" '
        f'aria-label="{escape(panel.title or name)}"></div>'
        f'<script type="application/json" data-plot="{name}">{drawing}</script></div>'
    )


def _toggle(toggle: Toggle) -> str:
    buttons = "".join(
        f'<button type="button" data-value="{escape(value)}" aria-pressed="{_truth(value == toggle.start)}">'
        f"{escape(label)}</button>"
        for value, label in toggle.options.items()
    )
    return f'<div class="toggle" role="group" data-name="{escape(toggle.name)}">{buttons}</div>'


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _legend(keys: Sequence[Key]) -> str:
    buttons = "".join(
        f'<button type="button" data-name="{escape(key.name)}" data-value="{escape(key.value)}" '
        f'aria-pressed="true" title="show or hide">{_swatch(key.colour, key.symbol, key.dash)}'
        f"{escape(key.label)}</button>"
        for key in keys
    )
    return f'<div class="legend">{buttons}</div>' if keys else ""


# ---- marks -------------------------------------------------------------------------------------------------


def swatch(style: AutoencoderStyle) -> str:
    """The marker of an autoencoder as a small inline drawing."""
    return _swatch(style.colour, style.symbol, "solid")


def ae_chip(name: str) -> str:
    """Marker and label of an autoencoder."""
    style = ae_style(name)
    return f'<span class="ae">{swatch(style)}{escape(style.label)}</span>'


_SHAPES = {
    "circle": '<circle cx="7" cy="7" r="4.5"/>',
    "square": '<rect x="3" y="3" width="8" height="8"/>',
    "diamond": '<path d="M7 1.5 12.5 7 7 12.5 1.5 7z"/>',
    "triangle-up": '<path d="M7 2 12 11.5H2z"/>',
    "x": '<path d="M3 3l8 8M11 3l-8 8" stroke-width="2.4"/>',
}
_DASHES = {"solid": "", "dot": "1.5 3", "dash": "5 3"}


def _swatch(colour: str, symbol: str | None, dash: str) -> str:
    if symbol is None:
        drawing = (
            f'<path d="M0 7h22" stroke="{colour}" stroke-width="2.4" stroke-dasharray="{_DASHES[dash]}"/>'
        )
        return f'<svg class="swatch" width="22" height="14" aria-hidden="true">{drawing}</svg>'
    fill = "none" if symbol.endswith("-open") or symbol == "x" else colour
    shape = _SHAPES[symbol.removesuffix("-open")]
    drawing = f'<g fill="{fill}" stroke="{colour}" stroke-width="2">{shape}</g>'
    return f'<svg class="swatch" width="14" height="14" aria-hidden="true">{drawing}</svg>'


def picture_uri(webp: bytes) -> str:
    """WebP bytes as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


# ---- tables ------------------------------------------------------------------------------------------------


def plain_table(
    label: str,
    caption: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: int = 1,
    stacks: bool = False,
) -> str:
    """A still table under its caption; both are HTML; columns after `text_columns` are numbers.

    `stacks` sets a row's cells under each other on a narrow screen.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= text_columns else ''}>{cell}</{tag}>" for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    kind = "plain stacks" if stacks else "plain"
    table = (
        f"<table class='{kind}'><thead><tr>{cells('th', headers)}</tr></thead><tbody>{body}</tbody></table>"
    )
    return _captioned(label, caption, f'<div class="scroll">{table}</div>')


def data_table(
    name: str,
    label: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Any]],
    *,
    page: int = 10,
) -> str:
    """A sortable, searchable, paged table; `rows` hold plain values as the columns' kinds ask."""
    options = {
        "columns": [{"title": c.title, "kind": c.kind, "digits": c.digits} for c in columns],
        "rows": [[_plain(cell) for cell in row] for row in rows],
        "page": page,
        "marks": {n: [swatch(ae_style(n)), ae_style(n).label] for n in _names(columns, rows)},
    }
    text = json.dumps(options, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    data = f'<script type="application/json" data-table="{name}">{text}</script>'
    return _captioned(label, caption, f'<div><table id="{name}" class="data"></table>{data}</div>')


def _captioned(label: str, caption: str, table: str) -> str:
    return f'<figure class="table"><figcaption><b>{escape(label)}.</b> {caption}</figcaption>{table}</figure>'


def _names(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> set[str]:
    places = [i for i, column in enumerate(columns) if column.kind == "ae"]
    return {row[i] for row in rows for i in places}


def _plain(value: Any) -> Any:
    """A value that JSON knows: NaN and the infinities become null, numpy scalars become Python's."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    value = value.item() if callable(getattr(value, "item", None)) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def escape(text: object) -> str:
    """Text -> HTML."""
    return html.escape(str(text))
