"""The report's sections: for each a reading aid for a newcomer, then figures and tables with captions."""

from __future__ import annotations

from collections.abc import Sequence

from flowlab.study.claims import Verdict
from flowlab.study.page.html import Block
from flowlab.study.sections import comparison, findings, record, schedule
from flowlab.study.sections.common import Numbering
from flowlab.study.sections.material import Material

__all__ = ["blocks"]


def blocks(material: Material, verdicts: Sequence[Verdict]) -> list[Block]:
    """All sections in order; one that has nothing to show says so."""
    count = Numbering()
    return [
        findings.summary(material, verdicts),
        findings.learnability(material, count),
        findings.training(material, count),
        findings.reconstruction(material, count),
        findings.best_parameters(material, count),
        schedule.sensitivity(material, count),
        schedule.paired_effects(material, count),
        schedule.curves(material, count),
        schedule.fitted_optima(material, count),
        schedule.sampling_sweep(material, count),
        comparison.judged_claims(material, verdicts, count),
        comparison.beside_published(material, count),
        record.reconstructions(material, count),
        record.samples(material, count),
        record.all_rows(material, count),
        record.provenance(material),
    ]
