"""Scores of pictures of shapes: the colour distance against its reference, each answer by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowlab.features.scene_reader import SeenObject, SeenScene
from flowlab.metrics.scenes import (
    bootstrap_median,
    delta_e_2000,
    edit_success,
    score,
    summary,
    unchanged,
)

STAR = SeenObject(shape="star", colour="#DC2626", texture="plain", x=0.25, y=0.5, size=0.13)
RING = SeenObject(shape="ring", colour="#2456DB", texture="striped", x=0.75, y=0.45, size=0.235)
SEEN = SeenScene(objects=(STAR, RING), background="#26272E")
ASKED = {
    "objects": [
        {"shape": "ring", "color": "#2456DB", "size": "large", "texture": "striped", "position": "right"},
        {"shape": "star", "color": "#DC2626", "size": "small", "center": [0.25, 0.5]},
    ],
    "count": 2,
    "relations": [[0, "right of", 1], [1, "left of", 0]],
    "background": "#26272E",
}


# ---- colour ------------------------------------------------------------------------------------------------


def test_delta_e_equals_scikit_image():
    from skimage.color import deltaE_ciede2000, rgb2lab

    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 256, (2, 4000, 3))
    other[:1500] = np.clip(one[:1500] + draw.integers(-5, 6, (1500, 3)), 0, 255)
    one[:200] = one[:200, :1]  # greys have no hue
    other[100:300] = other[100:300, :1]
    expected = deltaE_ciede2000(rgb2lab(one / 255), rgb2lab(other / 255))
    assert np.abs(delta_e_2000(one, other) - expected).max() < 1e-9
    assert np.allclose(delta_e_2000(one, other), delta_e_2000(other, one))
    assert delta_e_2000([0, 0, 0], [255, 255, 255]) == pytest.approx(100, abs=0.01)
    assert delta_e_2000(one, one).max() == 0


# ---- one picture -------------------------------------------------------------------------------------------


def test_the_right_picture_is_right_in_everything():
    found = score(SEEN, ASKED)
    assert found.all_right and found.count and found.delta_e == (0.0, 0.0) and found.background == 0
    assert found.shapes == found.relations == (True, True)
    assert found.positions == (True, True) and found.sizes == (True, True) and found.textures == (True,)


@pytest.mark.parametrize(
    ("objects", "wrong"),
    [
        ((STAR, replace(RING, shape="oval")), "shapes"),
        ((STAR, replace(RING, colour="#DC2626")), "colours"),
        ((STAR, replace(RING, texture="plain")), "textures"),
        ((STAR, replace(RING, size=0.13)), "sizes"),
        ((STAR, replace(RING, y=0.8)), "positions"),
        ((replace(STAR, x=0.75), replace(RING, x=0.6, y=0.6)), "relations"),
    ],
)
def test_each_fault_is_seen(objects, wrong):
    found = score(replace(SEEN, objects=objects), ASKED)
    assert not all(getattr(found, wrong)) and not found.all_right
    others = {"shapes", "colours", "textures", "sizes", "positions", "relations"} - {wrong}
    right = [name for name in others if all(getattr(found, name))]
    assert len(right) >= len(others) - (wrong == "relations"), "and nothing else is blamed"


def test_count_background_and_missing_objects():
    one = score(replace(SEEN, objects=(STAR,)), ASKED)
    assert one.count is False and one.shapes == (False, True) and one.delta_e == (100.0, 0.0)
    assert one.relations == (False, False) and one.textures == (False,)
    three = score(replace(SEEN, objects=(STAR, RING, replace(RING, shape="oval"))), ASKED)
    assert three.count is False and three.shapes == (True, True)
    pale = score(replace(SEEN, background="#E9EAE6"), ASKED)
    assert pale.background is not None and pale.background > 40 and not pale.all_right
    assert score(replace(SEEN, objects=()), ASKED).shapes == (False, False)


def test_what_is_not_asked_is_free():
    found = score(SEEN, {"objects": [{"shape": "star"}]})
    assert found.shapes == (True,) and found.count is None and found.background is None
    assert (found.delta_e, found.sizes, found.textures, found.positions, found.relations) == ((),) * 5
    assert found.all_right


def test_matching_is_to_the_advantage_of_the_picture():
    """Two stars, one of the right colour: that one counts, wherever it stands in the list."""
    blue = replace(STAR, colour="#2456DB", size=0.235)
    for objects in ((STAR, blue), (blue, STAR)):
        assert score(
            replace(SEEN, objects=objects), {"objects": [{"shape": "star", "color": "#DC2626"}]}
        ).delta_e == (0.0,)
    debris = tuple(replace(STAR, shape="oval", size=0.01, x=i / 20) for i in range(12))
    assert score(replace(SEEN, objects=(*debris, STAR, RING)), ASKED).shapes == (True, True)


# ---- edits -------------------------------------------------------------------------------------------------


def test_unchanged_looks_outside_the_mask_only():
    reference = torch.full((2, 3, 16, 16), 100, dtype=torch.uint8)
    edited = reference.clone()
    edited[:, :, :4, :4] = 255
    edited[1, :, 12, 12] = 130
    mask = torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[:, :4, :4] = True
    change = unchanged(edited, reference, mask)
    assert change[0] == 0 and change[1] == pytest.approx(30 / (256 - 7 * 7))
    assert unchanged(edited, reference, torch.ones_like(mask)).tolist() == [0, 0]
    assert unchanged(edited, reference, torch.zeros_like(mask))[0] > 9
    right = score(SEEN, ASKED)
    assert edit_success(right, 5.9) and not edit_success(right, 6.1)
    assert not edit_success(score(SEEN, {**ASKED, "count": 3}), 0.0)


# ---- many pictures -----------------------------------------------------------------------------------------


def test_summary_counts_each_asked_fact():
    good, bad = score(SEEN, ASKED), score(replace(SEEN, objects=(STAR,)), ASKED)
    table = summary([good, bad, good, good], changes=[0.0, 0.0, 20.0, 1.0])
    assert (table["shape"].estimate, table["shape"].n) == (7 / 8, 8)
    assert table["count"].estimate == table["all"].estimate == 3 / 4 and table["texture"].n == 4
    assert table["unchanged"].estimate == 3 / 4 and table["edit"].estimate == 2 / 4
    assert table["relation"].low < table["relation"].estimate == 6 / 8 < table["relation"].high
    assert table["median_delta_e"].estimate == 0 and table["median_delta_e"].n == 8
    free = summary([score(SEEN, {"objects": [{"shape": "star"}]})])
    assert set(free) == {"shape", "all"}
    with pytest.raises(ValueError, match="no pictures to summarise; score at least one"):
        summary([])


def test_bootstrap_of_the_median_covers_it():
    draw = np.random.default_rng(0)
    covered = [
        (found := bootstrap_median(draw.exponential(size=60), num_resamples=400)).low
        <= np.log(2)
        <= found.high
        for _ in range(200)
    ]
    assert 0.89 < np.mean(covered) <= 1
