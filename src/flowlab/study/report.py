"""The report: one HTML file from a run folder, self-contained, readable offline from disk."""

from __future__ import annotations

from pathlib import Path

from flowlab.core.files import atomic_path
from flowlab.study import claims
from flowlab.study.page.html import document, escape
from flowlab.study.sections import blocks
from flowlab.study.sections.material import Material, gather

__all__ = ["html", "write"]

TITLE = "Which latent space, which noise schedule?"
DECK = (
    "Small generators, trained alike in several latent spaces under many noise schedules. Three things are "
    "measured on the same work: how faithfully an autoencoder reconstructs, how small its latent is, and how "
    "easily a flow model learns in it."
)


def write(run_folder: Path | str, out_path: Path | str | None = None) -> Path:
    """Write the report of a run folder, whole or not at all, and return its path.

    `out_path` None writes report.html into the folder. Rows, reconstructions, settings or pictures that are
    absent are named on the page; a damaged results file, or one of another schema, is a ValueError.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a run folder; `flowlab study run` makes one under runs/")
    out = Path(out_path) if out_path is not None else folder / "report.html"
    page = html(gather(folder))
    with atomic_path(out) as draft:
        draft.write_text(page, encoding="utf-8")
    return out


def html(material: Material) -> str:
    """The page of some gathered material."""
    verdicts = claims.judge(material.rows, material.reconstruction) if len(material.rows) else []
    title = f"{TITLE} · {material.name}"
    return document(title=title, header=_header(material), blocks=blocks(material, verdicts))


def _header(material: Material) -> str:
    rows = material.every_row
    facts = {"Study": material.name, "Rows": f"{len(rows):,}"}
    if len(rows):
        facts |= {
            "Runs": f"{rows['run_id'].nunique():,}",
            "Seeds": f"{rows['seed'].nunique()}",
            "Data": ", ".join(rows["dataset"].unique()),
            "FID features": ", ".join(rows["features"].unique()),
            "Last measured": str(rows["created"].max())[:10],
        }
    items = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return (
        f'<p class="over">flowlab · study report</p><h1>{escape(TITLE)}</h1><p class="deck">{DECK}</p>'
        f'<dl class="facts">{items}</dl>'
    )
