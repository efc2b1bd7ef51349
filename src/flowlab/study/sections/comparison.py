"""Against the published study: its claims judged on our rows, and its numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from flowlab.study import analysis
from flowlab.study.claims import Verdict
from flowlab.study.grid import PAPER_AUTOENCODERS
from flowlab.study.page.html import Block, ae_chip, escape, plain_table
from flowlab.study.sections.common import Numbering, badge, filled, join, no_rows
from flowlab.study.sections.material import Material
from flowlab.study.sections.summary import percent

__all__ = ["beside_published", "judged_claims"]


# ---- claims ------------------------------------------------------------------------------------------------


def judged_claims(material: Material, verdicts: Sequence[Verdict], count: Numbering) -> Block:
    """The claims table."""
    how = (
        "Seven statements of the published study, each with a test that was fixed before any run. A ratio "
        "above 1 supports the claim; it is decided only where the 95 % interval leaves out 1."
    )
    block = Block(name="claims", title="The published claims, judged", how=how)
    if not verdicts:
        return filled(block, [no_rows(material)])
    dataset = join(pd.Series([verdict.dataset for verdict in verdicts]))
    caption = (
        f"The claims on our rows ({escape(dataset)}); the verdicts speak of that data alone. The ratio is "
        "that of the contrast that decides, with its 95 % interval."
    )
    headers = ["", "Claim", "Verdict", "Ratio", "What decides it"]
    lines = [_claim_line(verdict) for verdict in verdicts]
    return filled(
        block, [plain_table(count.table(), caption, headers, lines, text_columns=len(headers), stacks=True)]
    )


def _claim_line(verdict: Verdict) -> list[str]:
    claim = verdict.claim
    ratio = "–"
    if not pd.isna(verdict.statistic):
        interval = f"{verdict.low:.3g}&nbsp;to&nbsp;{verdict.high:.3g}"
        ratio = f"×&nbsp;{verdict.statistic:.3g}<small>{interval}</small>"
    return [
        str(claim.number),
        f"{escape(claim.sentence)}<small>Published: {escape(claim.published)}</small>",
        badge(verdict.status),
        ratio,
        f"{escape(verdict.reason)}{_details(verdict)}",
    ]


def _details(verdict: Verdict) -> str:
    items = [("Test", verdict.claim.test), ("Undecided band", verdict.claim.band)]
    items += [("Contrast", str(contrast)) for contrast in verdict.contrasts]
    items += [("Missing", "; ".join(verdict.missing))] if verdict.missing else []
    text = "".join(f"<p><b>{name}.</b> {escape(words)}</p>" for name, words in items)
    return f"<details><summary>test, band, all contrasts</summary>{text}</details>"


# ---- published numbers -------------------------------------------------------------------------------------

QUANTITIES = {
    "gfid": "generation FID: Inception, {features}",
    "perceptual": "perceptual distance: VGG, {perceptual}",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "rfid": "reconstruction FID: Inception, {features}",
    "best_trainp": "best training distribution",
    "best_trainshift": "best training shift",
    "best_sampleshift": "best sampling shift",
    "predicted_shift": "shift by the rule √(m/n)",
    "sensitivity_trainp": "lost by the worst distribution, no REPA",
    "sensitivity_trainshift": "lost by the worst training shift, no REPA",
    "sensitivity_sampleshift": "lost by the worst sampling shift, no REPA",
}


def beside_published(material: Material, count: Numbering) -> Block:
    """The published numbers and ours in one table."""
    how = (
        "Published numbers, and ours below each. Theirs come from ImageNet, a large model and Inception "
        "features: compare the order of the autoencoders and the sign of a change, never the values."
    )
    block = Block(name="published", title="Published numbers beside ours", how=how)
    if material.rows.empty:
        return filled(block, [no_rows(material)])
    table = analysis.beside_published(material.rows, material.reconstruction)
    families = material.fidelity.set_index("ae")["trainp"].to_dict()
    features = {"features": join(material.rows["features"])}
    features["perceptual"] = join(material.reconstruction["perceptual_features"]) or "not measured"
    lines = []
    for quantity, name in QUANTITIES.items():
        cells: dict[str, list[str]] = {}
        for line in table[table["quantity"] == quantity].to_dict("records"):
            ours = (
                families.get(line["ae"], "–") if quantity == "best_trainp" else _value(quantity, line["ours"])
            )
            cells.setdefault(line["ae"], []).append(_pair(quantity, line, ours))
        lines.append(
            [escape(name.format(**features)), *("".join(cells.get(ae, ["–"])) for ae in PAPER_AUTOENCODERS)]
        )
    caption = (
        "Published above, ours below. Where two features are named, the first are theirs, the others ours. "
        "What the published ± means is not stated there."
    )
    headers = ["", *(ae_chip(ae) for ae in PAPER_AUTOENCODERS)]
    return filled(block, [plain_table(count.table(), caption, headers, lines)])


def _pair(quantity: str, line: dict[str, Any], ours: str) -> str:
    said = _value(quantity, line["published"])
    said = escape(line["note"]) if said == "–" and line["note"] else said
    if pd.notna(line["published_error"]):
        said += f' <span class="se">± {line["published_error"]:.3g}</span>'
    if quantity == "best_trainshift" and line["condition"]:
        said += f' <span class="se">{escape(line["condition"])}</span>'
    return f"{said}<small>ours {escape(ours)}</small>"


def _value(quantity: str, value: float) -> str:
    one_level = quantity.startswith("sensitivity_") and value == 0  # nothing was compared
    if pd.isna(value) or one_level:
        return "–"
    return percent(value) if quantity.startswith("sensitivity_") else f"{value:.4g}"
