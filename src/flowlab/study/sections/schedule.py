"""The noise schedule: what its factors are worth, its curves, the best shifts, the sampling sweep."""

from __future__ import annotations

import pandas as pd

from flowlab.study import analysis, effects, published
from flowlab.study.grid import REPAS, SAMPLERS, SHIFTS
from flowlab.study.page.html import Block, Toggle, escape, figure, notice
from flowlab.study.page.style import repa_label
from flowlab.study.plots import factors, shifts
from flowlab.study.plots.words import ae_keys, fid_label
from flowlab.study.sections.common import Numbering, filled, no_rows, repa_toggle
from flowlab.study.sections.material import Material

__all__ = ["curves", "fitted_optima", "paired_effects", "sampling_sweep", "sensitivity"]


# ---- what each factor is worth -----------------------------------------------------------------------------


def sensitivity(material: Material, count: Numbering) -> Block:
    """FID by level of each factor, and what the worst level loses."""
    how = (
        "Each point is the best that one level of one factor can reach when the other two are chosen well. A "
        "steep line says: get this one right. A flat one hardly matters."
    )
    block = Block(name="sensitivity", title="Sensitivity to the noise schedule", how=how)
    last = material.rows[material.rows["step"] == material.rows["step"].max()]
    repas = [repa for repa in REPAS if (last["repa"] == repa).any()]
    if not repas:
        return filled(block, [no_rows(material)])
    label = fid_label(material.rows)
    tables = {repa: analysis.sensitivity_levels(material.rows, repa=repa) for repa in repas}
    caption = (
        f"{label}, at the last step for each level of each factor; bars span the seeds, and a factor "
        f"with one level only is left out. {escape(analysis.SENSITIVITY_RULE)}"
    )
    panels = factors.sensitivity_panels(tables, label)
    if not panels:
        return filled(block, [notice("Every factor has one level only in these rows.")])
    levels = figure(
        "fig-sensitivity",
        count.figure(),
        caption,
        panels,
        keys=ae_keys(pd.concat(tables.values())["ae"]),
        toggles=repa_toggle(pd.Series(repas), both=False),
    )
    return filled(block, [levels, *_shares(material, repas[0], count)])


def _shares(material: Material, repa: str, count: Numbering) -> list[str]:
    said = published.load()
    said = said[said["quantity"].str.startswith("sensitivity_")]
    said = said.assign(factor=said["quantity"].str.removeprefix("sensitivity_"))
    panels = factors.sensitivity_shares(analysis.sensitivity(material.rows, repa=repa), said)
    if not panels:
        return []
    caption = (
        f"What the worst level of a factor loses against its best, {repa_label(repa)}, last step. Full "
        "markers and numbers: our means over seeds. Rings: levels chosen on the other seeds. Grey bars: the "
        "published values (ImageNet, 300k steps, another model, another FID)."
    )
    return [figure("fig-shares", count.figure(), caption, panels)]


def paired_effects(material: Material, count: Numbering) -> Block:
    """Forest plots of paired differences."""
    how = (
        "Two runs that differ in one thing only make a pair. Left of the dotted line the change lowers FID; "
        "a bar that crosses the line leaves its sign open."
    )
    block = Block(name="effects", title="One change at a time", how=how)
    if material.rows.empty or material.comparisons.empty:
        return filled(block, [notice("There are no two runs that differ in one thing only.")])
    label = fid_label(material.rows)
    caption = (
        f"Change of {label}, between paired runs at the last step, each at its best "
        "sampling shift; 95 % intervals, never narrower than the noise of a pair of runs. "
        f"{_repa_compute(material)}"
    )
    return filled(
        block, [figure("fig-effects", count.figure(), caption, factors.effects(material.comparisons, label))]
    )


def _repa_compute(material: Material) -> str:
    """REPA's extra compute, beside its effect."""
    cost = effects.repa_cost(material.rows)
    if cost is None:
        return "REPA is compared at equal steps."
    return (
        f"REPA is compared at equal steps; they took {cost.ratio:.2f} times as long (median of "
        f"{cost.num_pairs} pairs of runs, quartiles {cost.lower_quartile:.2f} to {cost.upper_quartile:.2f}; "
        "the teacher's features are cached)."
    )


# ---- the shifts --------------------------------------------------------------------------------------------


def curves(material: Material, count: Numbering) -> Block:
    """The schedules from their formulas."""
    how = (
        "A generator practises at random times between data (0) and noise (1): the distribution and its "
        "shift α say how often where. The sampling shift says where the sampler spends its steps."
    )
    used = sorted({float(shift) for shift in material.rows["trainshift"]})
    shown = used if len(used) >= 3 else list(SHIFTS)
    keys = shifts.shift_keys(shown)
    parts = [
        figure(
            "fig-densities",
            count.figure(),
            "Densities of the three families of training times, from their formulas.",
            shifts.densities(shown),
            keys=keys,
        ),
        figure(
            "fig-time-shifts",
            count.figure(),
            "Left: the time shift s(α, t) = αt / (1 + (α − 1)t). Right: the length of each of 50 sampling "
            "steps under it; a large shift leaves long steps next to the data.",
            shifts.time_shifts(shown),
            keys=keys,
        ),
    ]
    return Block(name="schedules", title="The noise schedules", how=how, parts=parts)


def fitted_optima(material: Material, count: Numbering) -> Block:
    """The best shift between the grid's points."""
    how = (
        "A parabola in ln α through ln FID gives the best shift between the grid's points, and how sure it "
        "is. The grey tick is the rule √(m/n), the shift that the size of the latent asks for."
    )
    block = Block(name="optima", title="The fitted best shift", how=how)
    if material.rows.empty or material.optima.empty:
        return filled(
            block, [notice("A fit needs three shifts and several runs at each; the rows hold fewer.")]
        )
    measured = sorted({*material.rows["trainshift"], *material.rows["sampleshift"]})
    caption = (
        "Fitted best training and sampling shift with 95 % intervals (Fieller). Large: all families "
        "together; small: uniform, logit-normal and plateau, from top to bottom. A bar that runs out of the "
        "grid is open on that side; a hollow marker means that the rows do not determine a minimum. What "
        "holds on one data set need not hold on another."
    )
    return filled(
        block, [figure("fig-optima", count.figure(), caption, shifts.optima(material.optima, measured))]
    )


def sampling_sweep(material: Material, count: Numbering) -> Block:
    """Steps, sampler and sampling shift on the same networks."""
    how = (
        "The same trained networks, sampled with fewer and with more steps. If the lowest point moves "
        "sideways from colour to colour, the best sampling shift depends on the number of steps."
    )
    block = Block(name="sweep", title="Steps, sampler and sampling shift", how=how)
    rows = material.sweep
    if rows.empty:
        return filled(block, [notice("No run has been sampled with other steps or another sampler yet.")])
    label = fid_label(rows)
    means = rows.groupby(["ae", "sampler", "num_steps", "sampleshift"], as_index=False)["fid"].mean()
    names = {sampler: sampler.capitalize() for sampler in SAMPLERS if sampler in set(rows["sampler"])}
    lines = figure(
        "fig-sweep",
        count.figure(),
        f"{label}, against the sampling shift, mean over {rows['run_id'].nunique()} finished runs. Full "
        "lines: Euler; dotted: Heun, which evaluates the network twice in each step.",
        shifts.sweep(means, label),
        keys=shifts.step_keys(means),
        toggles=[Toggle(name="sampler", options=names | {"*": "both"}, start=next(iter(names)))],
    )
    return filled(block, [lines, *_peaks(rows, count)])


def _peaks(rows: pd.DataFrame, count: Numbering) -> list[str]:
    fits = effects.sweep_optima(rows)
    if fits.empty:
        return []
    caption = (
        "Fitted best sampling shift against the number of steps, with 95 % intervals; an interval without a "
        "bound reaches the edge of the grid."
    )
    panels = shifts.sweep_peaks(fits, sorted(rows["sampleshift"].unique()))
    return [figure("fig-peaks", count.figure(), caption, panels, keys=ae_keys(fits["ae"]))]
