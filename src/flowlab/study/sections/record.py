"""The record: reconstructions and samples to look at, every row, and where it all came from."""

from __future__ import annotations

import json

import pandas as pd

from flowlab.core.config import to_dict
from flowlab.study.contrasts import main_protocol
from flowlab.study.page.html import Block, Column, ae_chip, data_table, escape, notice, picture_uri
from flowlab.study.page.pictures import Picture, sample_grid, strips
from flowlab.study.plots.words import distance_label, fid_label, setting
from flowlab.study.sections.common import Numbering, filled, join, no_rows, place
from flowlab.study.sections.material import Material

__all__ = ["all_rows", "provenance", "reconstructions", "samples"]

MAX_ROWS = 6000  # in the table of all rows; of more, only those of the last step are shown
MAX_GRIDS = 12


# ---- pictures ----------------------------------------------------------------------------------------------


def reconstructions(material: Material, count: Numbering) -> Block:
    """Originals and reconstructions with an enlarged detail."""
    how = (
        "The same held-out images through each autoencoder; the red box is enlarged beside its image. Look "
        "for lost strokes and washed-out edges: no generator in that latent space can bring them back."
    )
    block = Block(name="pictures", title="Reconstructions", how=how)
    chosen = [picture for picture in material.pictures if picture.kind == "reconstruction"]
    if not chosen:
        return filled(block, [notice("No reconstructions were kept.")])
    lines = []
    for strip in strips(sorted(chosen, key=lambda picture: place(picture.ae))):
        name = ae_chip(strip.ae) if strip.ae else "Original"
        size = f'width="{strip.width}" height="{strip.height}"'
        lines.append(f'<div>{name}</div><div><img src="{picture_uri(strip.webp)}" {size} alt=""></div>')
    caption = (
        f"<b>{count.figure()}.</b> Held-out images and what each autoencoder makes of them; not selected."
    )
    return filled(block, [_gallery("strips", lines, caption)])


def samples(material: Material, count: Numbering) -> Block:
    """The best run's samples of each autoencoder and REPA setting."""
    how = (
        "Images from the trained generators, all from the same noise and labels: image by image, what "
        "differs comes from the training alone. Press one to enlarge it."
    )
    block = Block(name="samples", title="Samples", how=how)
    grids = {picture.run_id: picture for picture in material.pictures if picture.kind == "samples"}
    if not grids:
        return filled(block, [notice("No sample grids were kept.")])
    chosen = _best_grids(material, grids)
    caption = (
        f"<b>{count.figure()}.</b> Samples of {len(chosen)} of {len(grids)} runs: for each autoencoder and "
        "REPA setting the run with the lowest FID at the sampling shift of its grid."
    )
    return filled(block, [_gallery("gallery", [_card(*pair) for pair in chosen], caption)])


def _best_grids(material: Material, grids: dict[str, Picture]) -> list[tuple[Picture, str]]:
    """For each (autoencoder, REPA) the grid of the lowest last FID, captioned; without rows, the first."""
    rows = main_protocol(material.rows)
    rows = rows[rows["run_id"].isin(list(grids)) & (rows["step"] == rows["step"].max())]
    shift = material.study.sample_shifts[0] if material.study else rows["sampleshift"].min()  # of the grids
    rows = rows[rows["sampleshift"] == shift]
    if rows.empty:
        return [(grids[name], grids[name].caption) for name in list(grids)[:MAX_GRIDS]]
    best = rows.loc[rows.groupby(["ae", "repa"])["fid"].idxmin()]
    best = best.sort_values("ae", key=lambda names: names.map(place), kind="stable").head(MAX_GRIDS)
    label = fid_label(rows)
    return [
        (grids[line["run_id"]], f"{setting(line)}. {label}: {line['fid']:.3g}")
        for line in best.to_dict("records")
    ]


def _card(picture: Picture, caption: str) -> str:
    image = f'<img src="{picture_uri(sample_grid(picture))}" alt="samples of {escape(picture.run_id)}">'
    return f"<figure>{image}<figcaption>{ae_chip(picture.ae)}<br>{escape(caption)}</figcaption></figure>"


def _gallery(kind: str, items: list[str], caption: str) -> str:
    return f'<figure><div class="{kind}">{"".join(items)}</div><figcaption>{caption}</figcaption></figure>'


# ---- rows --------------------------------------------------------------------------------------------------


def all_rows(material: Material, count: Numbering) -> Block:
    """Every row, searchable."""
    how = (
        "Every measurement, one row each. Several words narrow the search, for instance <code>flux2 ln 4.63 "
        "teacher</code>; results.parquet beside this page holds all columns."
    )
    block = Block(name="rows", title="All rows", how=how)
    rows, note = material.every_row, ""
    if rows.empty:
        return filled(block, [no_rows(material)])
    if len(rows) > MAX_ROWS:
        rows = rows[rows["step"] == rows["step"].max()].head(MAX_ROWS)
        note = f" Of {len(material.every_row):,} rows the {len(rows):,} of the last step are shown."
    columns = [
        Column(title="Step", kind="number", digits=0),
        Column(title="Autoencoder", kind="ae"),
        Column(title="REPA"),
        Column(title="p(t)"),
        Column(title="Training shift", kind="number", digits=2),
        Column(title="Sampling shift", kind="number", digits=2),
        Column(title=fid_label(rows), kind="measure", digits=2),
        Column(title=distance_label("KID × 1000", rows), kind="measure", digits=2),
        Column(title="Sampler"),
        Column(title="Steps", kind="number", digits=0),
        Column(title="Seed", kind="number", digits=0),
        Column(title="Loss", kind="number", digits=4),
    ]
    table = rows.assign(
        measure=list(zip(rows["fid"].round(3), rows["fid_se"].round(3), strict=True)),
        kid=list(zip((1000 * rows["kid"]).round(3), (1000 * rows["kid_se"]).round(3), strict=True)),
        loss=rows["loss"].round(5),
    )
    names = [
        "step",
        "ae",
        "repa",
        "trainp",
        "trainshift",
        "sampleshift",
        "measure",
        "kid",
        "sampler",
        "num_steps",
    ]
    lines = table[[*names, "seed", "loss"]].to_numpy(dtype=object).tolist()
    caption = (
        "All measurements; ± is the standard error of one FID from its samples, of one KID from its samples "
        f"and as many of the reference.{note}"
    )
    return filled(block, [data_table("table-rows", count.table(), caption, columns, lines)])


# ---- provenance --------------------------------------------------------------------------------------------


def provenance(material: Material) -> Block:
    """Versions, machine, seeds, settings, commands, and what is missing."""
    how = "Where the numbers come from, and what makes them again. Nothing on this page was typed by hand."
    name = escape(material.name)
    commands = f"<code>flowlab study run {name}</code> &nbsp; <code>flowlab study report {name}</code>"
    facts = {"Commands": commands} | (_facts(material) if len(material.rows) else {})
    if len(material.reconstruction):
        facts["Autoencoders"] = "<br>".join(
            _weights(line["ae"], line["identity"], material.rows)
            for line in material.reconstruction.to_dict("records")
        )
    items = "".join(f"<dt>{what}</dt><dd>{text}</dd>" for what, text in facts.items())
    parts = [f'<dl class="record">{items}</dl>', *(notice(problem) for problem in material.problems)]
    if material.missing_runs:
        title = f"{len(material.missing_runs)} runs that lack rows"
        parts.append(_folded(title, "\n".join(material.missing_runs)))
    if material.study is not None:
        parts.append(_folded("settings of the study", json.dumps(to_dict(material.study), indent=2)))
    return Block(name="provenance", title="Provenance", how=how, parts=parts)


def _weights(ae: str, identity: str, rows: pd.DataFrame) -> str:
    """Which weights of an autoencoder, and what the gate said of them before the generators trained."""
    said = join(rows.loc[rows["ae"] == ae, "gate"])
    return escape(f"{ae} {identity}" + (f", gate: {said}" if said else ""))


def _facts(material: Material) -> dict[str, str]:
    rows = material.every_row
    seconds = rows.groupby("run_id")["train_seconds"].max().sum() + rows["sample_seconds"].sum()
    facts = {
        "Machine": join(rows["machine"]),
        "Versions": f"flowlab {join(rows['flowlab'])}, torch {join(rows['torch'])}",
        "Seeds": join(rows["seed"]),
        "Measured": f"{rows['created'].min()} to {rows['created'].max()}",
        "Compute": f"{seconds / 3600:.2f} hours of one worker: training, sampling and judging",
        "Training": f"{join(rows['backbone'])}, {join(rows['optimiser'])}",
        "Images seen": f"up to {rows['images_seen'].max():,} a run",
        "Sampling": (
            f"{join(rows['sampler'])}, {join(rows['num_steps'])} steps, guidance {join(rows['guidance'])}, "
            f"{join(rows['labels'])} labels"
        ),
    }
    return {what: escape(text) for what, text in facts.items()}


def _folded(title: str, text: str) -> str:
    return f'<details class="config"><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>'
