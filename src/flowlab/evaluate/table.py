"""Result rows of autoencoders as a table to read: aligned text, Markdown, HTML; or all columns as CSV."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowlab.core.choices import lookup
from flowlab.core.files import atomic_path
from flowlab.metrics.frechet import ENOUGH_IMAGES, few_images_note

__all__ = ["BLOCKS", "FORMATS", "format_of", "notes", "text", "write"]

Row = Mapping[str, Any]

# Blocks of columns, each a table of its own: heading, digits.
BLOCKS: tuple[dict[str, tuple[str, str]], ...] = (
    {
        "channels":             ("ch/token",       "d"),
        "bits_per_pixel":       ("bits/px",        ".2f"),
        "psnr":                 ("PSNR dB",        ".2f"),
        "ssim":                 ("SSIM",           ".3f"),
        "perceptual":           ("perceptual",     ".4f"),
        "lpips_vgg":            ("lpips_vgg",      ".4f"),
        "psim_vgg16":           ("psim_vgg16",     ".3f"),
        "rfid":                 ("rFID",           ".4f"),
        "weights":              ("weights",        ""),
        "gate":                 ("gate",           ""),
    },
    {
        "latent_mean_max":      ("max |mean|",     ".2f"),
        "latent_std_min":       ("min std",        ".2f"),
        "latent_std_max":       ("max std",        ".2f"),
        "effective_rank":       ("eff. rank",      ".1f"),
        "spectrum_slope":       ("slope z",        ".2f"),
        "spectrum_slope_image": ("slope image",    ".2f"),
        "rotation_error":       ("rotation error", ".3f"),
        "rotation_psnr":        ("rotation dB",    ".1f"),
        "scale_error":          ("scale error",    ".3f"),
        "scale_psnr":           ("scale dB",       ".1f"),
    },
    {
        "resolution":           ("px",             "d"),
        "encode_per_second":    ("encode/s",       ".1f"),
        "decode_per_second":    ("decode/s",       ".1f"),
        "encode_memory_gb":     ("encode GB",      ".2f"),
        "decode_memory_gb":     ("decode GB",      ".2f"),
    },
)  # fmt: skip
NAME = "source"  # the column that every block begins with: the autoencoder as it was asked for
MISSING = "-"


def text(rows: Sequence[Row]) -> str:
    """The blocks for a terminal, columns aligned, notes below."""
    return "\n\n".join([*(_aligned(*block) for block in _blocks(rows)), "\n".join(notes(rows))])


def notes(rows: Sequence[Row]) -> list[str]:
    """What the numbers are of: without it none of them compares."""
    first = rows[0]
    counts = sorted({f"{row['num_images']:,}" for row in rows})
    lines = [
        f"{' or '.join(counts)} images of {first['dataset']} ({first['split']}); a number after ± is the "
        "standard error of the mean over images (rFID: paired bootstrap).",
    ]
    for column, about in _ABOUT.items():
        if any(_is_there(row, column) for row in rows):
            lines.append(about.format(names=" or ".join(sorted({str(_named(row, column)) for row in rows}))))
    fewest = min((row["num_images"] for row in rows if _is_there(row, "rfid")), default=ENOUGH_IMAGES)
    return [*lines, *([f"rFID: {few_images_note(fewest)}."] if fewest < ENOUGH_IMAGES else [])]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table in the form that the file's ending names, whole or not at all."""
    made = format_of(path)(rows)
    with atomic_path(path) as draft:
        draft.write_text(made, encoding="utf-8")


def format_of(path: Path) -> Callable[[Sequence[Row]], str]:
    """The function that makes what the ending of `path` names; an unknown one is a ValueError."""
    return lookup(FORMATS, path.suffix.removeprefix("."), f"ending of the table {path}")


# ---- forms -------------------------------------------------------------------------------------------------


def _aligned(heads: list[str], cells: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [heads, ["-" * width for width in widths], *cells]
    pairs = [zip(line, widths, strict=True) for line in lines]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in pair).rstrip() for pair in pairs)


def _markdown(rows: Sequence[Row]) -> str:
    tables = []
    for heads, cells in _blocks(rows):
        lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *cells]
        tables.append(
            "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        )
    return "\n\n".join([*tables, *notes(rows)]) + "\n"


def _page(rows: Sequence[Row]) -> str:
    tables = []
    for heads, cells in _blocks(rows):
        head = _tags("tr", [_tags("th", heads)])
        body = _tags("tr", [_tags("td", line) for line in cells])
        tables.append(f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table>")
    return _HTML.format(tables="\n".join(tables), below=_tags("p", notes(rows)))


def _tags(tag: str, contents: Sequence[str]) -> str:
    """Each of `contents` in a tag; text is escaped, rows hold tags already."""
    inside = contents if tag == "tr" else [html.escape(content) for content in contents]
    return "".join(f"<{tag}>{content}</{tag}>\n" for content in inside)


def _csv(rows: Sequence[Row]) -> str:
    """Every column of every row at full precision, lists left out; a cell without a number is empty."""
    rows = [{name: value for name, value in row.items() if not isinstance(value, list)} for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if _is_nan(value) else value for name, value in row.items()} for row in rows)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {"md": _markdown, "html": _page, "csv": _csv}

_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Autoencoders</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 16px; overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 4px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid #8886; }}
th:first-child, td:first-child {{ text-align: left; }}
p {{ max-width: 70em; margin: 8px 0; opacity: .8; }}
</style>
</head>
<body>
{tables}
{below}
</body>
</html>
"""


# ---- cells -------------------------------------------------------------------------------------------------

_ABOUT = {
    "perceptual": "perceptual: squared distance of unit features summed over layers, of {names}; not LPIPS.",
    "lpips_vgg": "lpips_vgg: LPIPS with trained heads on {names}.",
    "psim_vgg16": "psim_vgg16: sum over five layers of 1 - mean cosine, on {names}; not LPIPS.",
    "rfid": "rFID: against the same images, in features of {names}.",
    "latent_mean_max": "mean, std: of the final latent's channels; eff. rank: exp(entropy of its spectrum).",
    "spectrum_slope": "slope: log power against log frequency, of the latent and of the image in its band.",
    "rotation_error": "rotation (90 degrees), scale (half): |D(T z) - T(D z)| over the spread of T(D z).",
    "encode_per_second": "speed and memory: {names}.",
}  # fmt: skip
_NAMED_BY = {
    "perceptual": "perceptual_features",
    "lpips_vgg": "vgg",
    "psim_vgg16": "vgg",
    "rfid": "features",
}


def _named(row: Row, column: str) -> str:
    """What the note of a column names: the features, or the batch and the machine."""
    if column == "encode_per_second":
        return f"float32, batches of {row.get('speed_batch', MISSING)}, {row.get('machine', MISSING)}"
    return str(row.get(_NAMED_BY.get(column, ""), MISSING))


def _blocks(rows: Sequence[Row]) -> list[tuple[list[str], list[list[str]]]]:
    """Headings and formatted cells of each block; what no row fills is left out, column or block."""
    assert rows, "a table of no rows"
    made = []
    for block in BLOCKS:
        filled = {name: look for name, look in block.items() if any(_is_there(row, name) for row in rows)}
        heads = ["autoencoder", *(heading for heading, _ in filled.values())]
        cells = [[str(row[NAME]), *(_cell(row, name, digits) for name, (_, digits) in filled.items())]
                 for row in rows]  # fmt: skip
        made += [(heads, cells)] if filled.keys() - {"resolution"} else []
    return made


def _cell(row: Row, name: str, digits: str) -> str:
    if not _is_there(row, name):
        return MISSING
    shown, error = format(row[name], digits), row.get(f"{name}_se")
    return shown if error is None or _is_nan(error) else f"{shown} ±{format(error, digits)}"


def _is_there(row: Row, name: str) -> bool:
    return name in row and row[name] is not None and not _is_nan(row[name])


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
