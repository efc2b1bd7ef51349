"""The seven ordinal claims of the published study, each with a test fixed before any grid ran.

Every claim is a conjunction of contrasts (contrasts.py), each positive where the claim is right:

* holds: the 95 % interval of each contrast lies above zero;
* does not hold: the interval of some contrast, widened for the number of contrasts, lies below zero;
* undecided: anything else, and always where a row that the test needs is missing.

The undecided band is the half-width of the interval. It is never narrower than 25 % divided by the square
root of the number of run pairs behind it: in a prototype two seeds of one setting differed by up to 25-30 %,
so one pair decides nothing below that, and only differences pooled over grid cells and seeds do. "Best"
settings are chosen on one seed and scored on the others, which makes it 30 %; where the seeds at hand differ
by more, their own spread takes its place. Nothing here may be changed in the light of the rows it judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from flowlab.study.contrasts import Contrast, main_protocol
from flowlab.study.coverage import Coverage, cover
from flowlab.study.evidence import NEAR, NEEDS, SENSITIVE, TESTS, Finding
from flowlab.study.grid import PAPER_AUTOENCODERS

__all__ = ["CLAIMS", "Claim", "Status", "Verdict", "judge"]

Status = Literal["holds", "does not hold", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published claim and how our rows are allowed to judge it."""

    number: int
    sentence: str
    """What the paper's figures say, as an order that can be right or wrong."""
    published: str
    """The published evidence."""
    test: str
    """The contrasts, in words."""
    band: str
    """What stays undecided."""
    about_autoencoders: bool = False
    """It compares autoencoders, each of which was trained once."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the rows of one data set say about one claim."""

    claim: Claim
    status: Status
    statistic: float
    """Ratio of the contrast that decides: above 1 supports the claim; nan without any."""
    low: float
    """Lower end of its 95 % interval, as a ratio."""
    high: float
    """Upper end."""
    reason: str
    """One or two sentences with the contrast's name and what limits the verdict."""
    dataset: str
    """The only data set the verdict speaks of."""
    missing: tuple[str, ...]
    """Rows that the test needs and does not find, grouped."""
    contrasts: tuple[Contrast, ...]
    """All of them, the deciding one first."""


CLAIMS = (
    Claim(
        number=1,
        sentence=(
            "Uniform training times (ts) are never the best family: for no autoencoder, at no checkpoint, "
            "with or without REPA."
        ),
        published=(
            "Best-parameter table: ln or pln in every row; choosing the family is worth 6.8 to 36.8 %."
        ),
        test=(
            "Best ts against the best of ln and pln per (autoencoder, REPA, checkpoint), each at its own "
            "best shifts. Holds if ts leads in no such cell and the mean over cells is above zero; fails "
            "if that mean, or that of one (autoencoder, REPA) over its checkpoints, is below zero."
        ),
        band=(
            "Mean over 8 units: 30 % / sqrt(8 x seeds); one unit: 30 % / sqrt(seeds), widened for 9 "
            "contrasts."
        ),
    ),
    Claim(
        number=2,
        sentence="REPA lowers FID for every autoencoder.",
        published="Every best curve with REPA lies below the one without.",
        test=(
            "Per autoencoder: FID without over FID with REPA at equal steps, same family, training shift "
            "and seed, each run at its best sampling shift, pooled over the 15 grid cells at the last "
            "checkpoint."
        ),
        band="25 % / sqrt(15 x seeds) at least, and the spread over cells and between seeds.",
    ),
    Claim(
        number=3,
        sentence=(
            "Logit-normal times with REPA improve RAE over its own recipe (uniform times, shift by latent "
            "size)."
        ),
        published="The RAE row of the best-parameter table against ts / 6.93 / 6.93.",
        test=(
            "RAE, last checkpoint: FID of ts without REPA at the recipe's shift for training and sampling "
            "over the best ln + REPA. Both readings of the recipe must lose: the published 6.93, and the "
            "rule sqrt(m/n) for this latent."
        ),
        band="30 % / sqrt(seeds) per reading.",
    ),
    Claim(
        number=4,
        sentence=(
            "FLUX.2 at its best is near RAE at RAE's original settings, and RAE without shift is worse "
            "than FLUX.2 with shift."
        ),
        published="gFID 3.70 against 3.10 (19 %).",
        test=(
            f"Last checkpoint. Near: best FLUX.2 (with or without REPA) within a factor {NEAR} of RAE with "
            "ts, no REPA and the shift of the rule sqrt(m/n), in both directions. Shift: without REPA, "
            "RAE at both shifts 1 and its best family over FLUX.2's best with a training shift above 1."
        ),
        band="30 % / sqrt(seeds).",
        about_autoencoders=True,
    ),
    Claim(
        number=5,
        sentence=(
            "For each autoencoder the training shift matters more than the sampling shift and the family; "
            "the sampling shift matters for RAE and FLUX.2, hardly for SD and FLUX.1."
        ),
        published=(
            "Worst against best, 300k steps, no REPA: training shift 62-86 %, family 7-37 %, sampling "
            "shift 31.4 % (FLUX.2), 38.7 % (RAE), 6.8 % (FLUX.1), 4.5 % (SD)."
        ),
        test=(
            "Last checkpoint, no REPA, rows above ten times the autoencoder's best FID dropped: worst "
            "level over best level of each factor after minimising over the other two; training shift "
            f"against family and against sampling shift; sampling shift above {SENSITIVE:.0%} for RAE and "
            "FLUX.2, below for SD and FLUX.1."
        ),
        band=(
            "30 % / sqrt(seeds) between factors; 10 % / sqrt(seeds) for the sampling shift alone, which "
            "compares samples of the same networks."
        ),
        about_autoencoders=True,
    ),
    Claim(
        number=6,
        sentence=(
            "gFID orders RAE < FLUX.2 < SD < FLUX.1; the perceptual distance orders FLUX.2 < FLUX.1 < SD "
            "< RAE."
        ),
        published="gFID 3.10, 3.70, 7.73, 10.13; LPIPS 0.267, 0.338, 0.952, 1.674.",
        test=(
            "The three neighbours of each order: best FID over all settings at the last checkpoint; "
            "perceptual distance of the reconstruction table, two independent standard errors."
        ),
        band="gFID 30 % / sqrt(seeds); perceptual 1.96 standard errors.",
        about_autoencoders=True,
    ),
    Claim(
        number=7,
        sentence="The best sampling shift lies somewhat above the best training shift.",
        published="SD 2.95 against 1.00, FLUX.2 6.93 against 4.63, RAE at the edge of the grid for both.",
        test=(
            "Per autoencoder, last checkpoint: in each (family, REPA, seed), at the best training shift, "
            "FID of the best sampling shift up to that training shift over FID of the best one above it, "
            "pooled. Where the best training shift is the largest of the grid nothing can be seen, and "
            "the pair is left out."
        ),
        band=(
            "10 % / sqrt(pairs) at least (samples of the same networks), and the spread over pairs and "
            "between seeds."
        ),
    ),
)


# ---- the verdict -------------------------------------------------------------------------------------------


def judge(
    rows: pd.DataFrame, reconstruction: pd.DataFrame | None = None, *, claims: Sequence[Claim] = CLAIMS
) -> list[Verdict]:
    """One verdict per data set in `rows` (the results schema) and claim, in the claims' order.

    Give results.planned(study, rows) where `rows` may hold a sampling sweep, whose rows would count, too.
    `reconstruction` (its own schema) is needed by claim 6 alone.
    """
    tables = pd.DataFrame(columns=["ae", "dataset"]) if reconstruction is None else reconstruction
    verdicts = []
    for dataset in sorted(rows["dataset"].unique()):
        own = main_protocol(rows[rows["dataset"] == dataset])
        own = own[own["ae"].isin(PAPER_AUTOENCODERS)]
        own_tables = tables[tables["dataset"] == dataset]
        verdicts += [_verdict(claim, own, own_tables, str(dataset)) for claim in claims]
    return verdicts


def _verdict(claim: Claim, rows: pd.DataFrame, reconstruction: pd.DataFrame, dataset: str) -> Verdict:
    coverage = cover(rows, NEEDS[claim.number](rows))
    finding = TESTS[claim.number](coverage.rows, reconstruction)
    missing = coverage.missing
    if claim.number == 6:
        missing += tuple(
            f"reconstruction of {ae}" for ae in PAPER_AUTOENCODERS if ae not in set(reconstruction["ae"])
        )
    found = [contrast for contrast in (*finding.required, *finding.vetoes) if contrast is not None]
    status, deciding = _decide(finding, found)
    if missing or None in finding.required:
        status = "undecided"
    logs = (deciding.mean, deciding.low, deciding.high) if deciding else (math.nan,) * 3
    statistic, low, high = (math.exp(value) for value in logs)
    return Verdict(
        claim=claim,
        status=status,
        statistic=statistic,
        low=low,
        high=high,
        reason=_reason(claim, finding, deciding, coverage, missing),
        dataset=dataset,
        missing=missing,
        contrasts=tuple(sorted(found, key=lambda contrast: contrast is not deciding)),
    )


def _decide(finding: Finding, found: list[Contrast]) -> tuple[Status, Contrast | None]:
    against = [contrast for contrast in found if contrast.widened(len(found)).high < 0]
    if against:
        return "does not hold", min(against, key=lambda contrast: contrast.mean)
    required = [contrast for contrast in finding.required if contrast is not None]
    weakest = min(required, key=lambda contrast: contrast.low) if required else None
    holds = bool(required) and all(contrast.low > 0 for contrast in required) and finding.literal
    return ("holds" if holds else "undecided"), weakest


def _reason(
    claim: Claim, finding: Finding, deciding: Contrast | None, coverage: Coverage, missing: tuple[str, ...]
) -> str:
    parts = [str(deciding) if deciding else "no pair of runs to compare"]
    if missing:
        parts.append(f"incomplete ({len(missing)} groups of rows missing), so this is a sign, not a verdict")
    if len(coverage.seeds) == 1:
        parts.append("one seed: settings chosen and scored on the same runs")
    if finding.note:
        parts.append(finding.note)
    if claim.about_autoencoders:
        parts.append("rests on one training of each autoencoder")
    return "; ".join(parts) + "."
