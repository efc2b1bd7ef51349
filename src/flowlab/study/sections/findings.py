"""What was found: summary, learnability against fidelity, training, reconstruction, best settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowlab.study import analysis
from flowlab.study.claims import Verdict
from flowlab.study.page.html import Block, Column, ae_chip, data_table, escape, figure, notice, plain_table
from flowlab.study.page.style import ae_style
from flowlab.study.plots.fidelity import learnability as learnability_panels
from flowlab.study.plots.training import curve_keys
from flowlab.study.plots.training import training as training_panels
from flowlab.study.plots.words import fid_label
from flowlab.study.sections.common import Numbering, badge, filled, join, no_rows, place, repa_toggle
from flowlab.study.sections.material import Material
from flowlab.study.sections.summary import ten_lines

__all__ = ["best_parameters", "learnability", "reconstruction", "summary", "training"]


def summary(material: Material, verdicts: Sequence[Verdict]) -> Block:
    """Ten lines, and the verdicts one by one."""
    lines = "".join(f"<li>{line}</li>" for line in ten_lines(material, verdicts))
    parts = [f'<ol class="summary">{lines}</ol>', _verdict_list(verdicts)]
    if material.study is not None and material.study.draft:
        parts.insert(
            0, notice("This was a rehearsal with too few samples: none of its numbers means anything.")
        )
    return Block(name="summary", title="Summary", how="", parts=parts)


def _verdict_list(verdicts: Sequence[Verdict]) -> str:
    items = "".join(
        f"<li><span>{verdict.claim.number}</span>{badge(verdict.status)}"
        f'<a href="#claims">{escape(verdict.claim.sentence)}</a></li>'
        for verdict in verdicts
    )
    return f'<ul class="verdicts">{items}</ul>' if items else ""


# ---- Fig. 1 and Fig. 2 -------------------------------------------------------------------------------------


def learnability(material: Material, count: Numbering) -> Block:
    """Fig. 1."""
    how = (
        "Height is how well generators learned the latent space, the other axis how faithfully the "
        "autoencoder reconstructs. Choose a latent space that no other one beats on both."
    )
    block = Block(name="learnability", title="Learnability against fidelity", how=how)
    if material.rows.empty:
        return filled(block, [no_rows(material)])
    label, table = fid_label(material.rows), material.fidelity
    absent = [ae_style(ae).label for ae in table[table["psnr"].isna()]["ae"]]
    parts = [notice(f"Left out, for want of a reconstruction row: {', '.join(absent)}.")] if absent else []
    panels = learnability_panels(table, label)
    if panels:
        caption = (
            f"Best {label}, at the last step and of the settings that all autoencoders share, against "
            "reconstruction. Vertical bars span the seeds, horizontal ones are standard errors. Along the "
            "lines, where there is room, stands the change of FID: dotted, from another autoencoder to "
            "FLUX.2; full, from a latent to its twin with semantic alignment. The best of many noisy "
            "settings is an optimistic number; point at a marker for the setting."
        )
        parts.append(figure("fig-learnability", count.figure(), caption, panels))
    return filled(block, parts)


def training(material: Material, count: Numbering) -> Block:
    """Fig. 2."""
    how = (
        "Lower is better, and a curve that is low early learns faster. The gap between the full and the "
        "dotted line is what the right noise schedule is worth; the faint lines are all other settings."
    )
    block = Block(name="training", title="FID over training", how=how)
    if material.rows.empty:
        return filled(block, [no_rows(material)])
    label, curves = fid_label(material.rows), analysis.curves(material.rows)
    caption = (
        f"{label}, over training, mean over seeds; bars span the seeds. Full: the best setting at each step. "
        "Dotted: training and sampling shift 1. Dashed: both at the shift that the rule √(m/n) gives this "
        "latent. Open markers are without REPA, full ones with it. All panels share their axes, which are "
        "cut to the curves."
    )
    return filled(
        block,
        [
            figure(
                "fig-training",
                count.figure(),
                caption,
                training_panels(curves, material.seed_means, label),
                keys=curve_keys(curves["curve"]),
                toggles=repa_toggle(curves["repa"], both=True),
            )
        ],
    )


# ---- Table 1 and Table 2 -----------------------------------------------------------------------------------


def reconstruction(material: Material, count: Numbering) -> Block:
    """Table 1."""
    how = (
        "What is lost before any generator is trained: encode held-out images, decode them, compare. PSNR "
        "and SSIM ask for the exact pixels; the perceptual distance and rFID compare features and forgive "
        "what looks alike."
    )
    block = Block(name="reconstruction", title="Reconstruction", how=how)
    table = material.reconstruction.sort_values("ae", key=lambda names: names.map(place))
    if table.empty:
        return filled(block, [notice("No reconstruction was measured.")])
    headers = [
        "Autoencoder",
        "Channels per token",
        "Bits per pixel",
        "Parameters",
        "PSNR, dB ↑",
        "SSIM ↑",
        f"Perceptual ↓<br>{escape(join(table['perceptual_features']))}",
        f"rFID ↓<br>{escape(join(table['features']))}",
    ]
    best = {name: table[name].max() for name in ("psnr", "ssim")}
    best |= {name: table[name].min() for name in ("perceptual", "rfid")}
    caption = (
        f"Reconstruction of {table['num_images'].max():,} held-out images "
        f"({escape(join(table['dataset']))}), ± one standard error; the best of a column is bold. The "
        "perceptual distance is named for the features it uses, and is not LPIPS. Each autoencoder was "
        "trained once, which no error here covers."
    )
    lines = [_reconstruction_line(line, best) for line in table.to_dict("records")]
    return filled(block, [plain_table(count.table(), caption, headers, lines)])


def _reconstruction_line(line: dict[str, Any], best: dict[str, float]) -> list[str]:
    cells = [
        ae_chip(line["ae"]),
        f"{line['channels']}",
        f"{line['bits_per_pixel']:.3g}",
        f"{line['parameters'] / 1e6:.2f} M",
    ]
    for name, digits in {"psnr": 2, "ssim": 4, "perceptual": 4, "rfid": 3}.items():
        value = f"{line[name]:.{digits}f}"
        value = f"<strong>{value}</strong>" if line[name] == best[name] else value
        cells.append(f'{value} <span class="se">± {line[f"{name}_se"]:.{digits}f}</span>')
    return cells


def best_parameters(material: Material, count: Numbering) -> Block:
    """Table 2."""
    how = (
        "The setting with the lowest FID for each step, autoencoder and REPA. Press a heading to sort; type "
        "to search, where several words narrow further. <i>Tied</i> counts the settings that noise cannot "
        "tell apart."
    )
    block = Block(name="best", title="Best parameters", how=how)
    if material.rows.empty:
        return filled(block, [no_rows(material)])
    label = fid_label(material.rows)
    columns = [
        Column(title="Step", kind="number", digits=0),
        Column(title="Autoencoder", kind="ae"),
        Column(title="REPA"),
        Column(title="p(t)"),
        Column(title="Training shift", kind="number", digits=2),
        Column(title="Sampling shift", kind="number", digits=2),
        Column(title=label, kind="measure", digits=2),
        Column(title="Held out", kind="number", digits=2),
        Column(title="Tied", kind="number", digits=0),
        Column(title="Seeds", kind="number", digits=0),
    ]
    names = [
        "step",
        "ae",
        "repa",
        "trainp",
        "trainshift",
        "sampleshift",
        "fid",
        "held_out",
        "num_tied",
        "num_seeds",
    ]
    table = analysis.best_parameters(material.rows).sort_values("step", ascending=False, kind="stable")
    lines = [
        [(line["fid"], line["fid_se"]) if name == "fid" else line[name] for name in names]
        for line in table.to_dict("records")
    ]
    caption = (
        f"The best setting; {label} is the mean over seeds ± the standard error from the samples alone. "
        "<i>Held out</i> scores on each seed the setting that was chosen on the others, which is what "
        "choosing is really worth; it needs two seeds."
    )
    return filled(block, [data_table("table-best", count.table(), caption, columns, lines)])
