"""Drawing scenes: a signed distance for each object at each pixel, turned into antialiased coverage.

The distance to a shape's outline is tabulated once on a fine grid around the shape and looked up through
the object's place, size and rotation; so every shape costs the same, at any resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.data.scenes_objects import MAX_OBJECTS, SHAPES, Scene, SceneTable, second_tone

__all__ = ["RESOLUTIONS", "boxes", "distances", "masks", "outlines", "render"]

RESOLUTIONS = (32, 64, 128, 256)
LIGHT_DEPTH = 0.25
"""How much the lit side of an object gains and the other loses."""
STRIPES = 0.6
"""Distance between two stripes, in half sides of the object."""
DOTS, DOT_RADIUS = 0.62, 0.2
"""Distance and radius of dots, as above."""


def render(scenes: SceneTable | Sequence[Scene], resolution: int) -> Tensor:
    """Scenes => uint8 (B, 3, resolution, resolution)."""
    table = _checked(scenes, resolution)
    rows = max(1, 2**17 // resolution**2)  # what is drawn at once stays in cache
    return torch.cat([_drawn(table[i : i + rows], resolution) for i in range(0, len(table), rows)])


def masks(scenes: SceneTable | Sequence[Scene], resolution: int) -> Tensor:
    """Where each object is seen: its share of each pixel, float (B, 3, R, R); 0 for an absent one."""
    table = _checked(scenes, resolution)
    cover = _coverage(*_frame(table, resolution), table, resolution)
    hidden = (1 - cover).flip(1).cumprod(1).flip(1)  # (B, 3, R, R): seen through an object and all later ones
    return cover * torch.cat([hidden[:, 1:], torch.ones_like(hidden[:, :1])], 1)


def boxes(scenes: SceneTable | Sequence[Scene]) -> Tensor:
    """Exact boxes (B, 3, 4) left, top, right, bottom as shares of the canvas; 0 for an absent object."""
    table = scenes if isinstance(scenes, SceneTable) else SceneTable.of(scenes)
    points = _padded_outlines()[table.shape]  # (B, 3, P, 2)
    cos, sin = _turn(table)
    across = points[..., 0] * cos[..., None] - points[..., 1] * sin[..., None]
    down = points[..., 0] * sin[..., None] + points[..., 1] * cos[..., None]
    turned = torch.stack([across, down], -1) * table.size[..., None, None] + table.place[:, :, None]
    return torch.cat([turned.amin(2), turned.amax(2)], -1) * table.present[..., None]


# ---- pixels ------------------------------------------------------------------------------------------------


def _drawn(table: SceneTable, resolution: int) -> Tensor:
    across, down = _frame(table, resolution)  # (B, 3, R, R) each, in half sides
    cover = _coverage(across, down, table, resolution)
    tone = _texture(across, down, table, resolution)
    light = _light(across, down, table)
    colour = table.colour.float()
    second = second_tone(colour)
    image = table.background.float()[:, :, None, None].expand(-1, -1, resolution, resolution)
    for i in range(MAX_OBJECTS):
        one, two = colour[:, i, :, None, None], second[:, i, :, None, None]  # (B, 3, 1, 1)
        ink = (torch.lerp(one, two, tone[:, i, None]) * light[:, i, None]).clamp_(0, 255)
        image = torch.lerp(image, ink, cover[:, i, None])
    return image.round_().to(torch.uint8)


def _frame(table: SceneTable, resolution: int) -> tuple[Tensor, Tensor]:
    """Where each pixel's centre lies in each object's own turned frame, in half sides: two (B, 3, R, R)."""
    centre = (torch.arange(resolution) + 0.5) / resolution
    size = table.size[..., None]
    across = (centre - table.place[..., 0, None]) / size  # (B, 3, R)
    down = (centre - table.place[..., 1, None]) / size
    cos, sin = (part[..., None] for part in _turn(table))
    return (
        (across * cos)[:, :, None, :] + (down * sin)[..., None],
        (down * cos)[..., None] - (across * sin)[:, :, None, :],
    )


def _turn(table: SceneTable) -> tuple[Tensor, Tensor]:
    angle = torch.deg2rad(table.rotation)
    return angle.cos(), angle.sin()


def _coverage(across: Tensor, down: Tensor, table: SceneTable, resolution: int) -> Tensor:
    """Share of each pixel that an object covers, to first order in the distance: (B, 3, R, R)."""
    num = len(SHAPES)
    inside = 1 - 1 / _CELLS  # of its shape's own table, half a cell from the next one's
    row = (down / _REACH).clamp(-inside, inside).add(1 - num).add_(2 * table.shape[..., None, None]).div_(num)
    grid = torch.stack([across / _REACH, row], -1).view(1, -1, resolution, 2)
    distance = F.grid_sample(_fields(), grid, padding_mode="border", align_corners=False)
    pixels = distance.view_as(across) * (table.size * resolution)[..., None, None]
    return (0.5 - pixels).clamp_(0, 1) * table.present[..., None, None]


def _texture(across: Tensor, down: Tensor, table: SceneTable, resolution: int) -> Tensor:
    """Share of the second tone in each pixel, (B, 3, R, R)."""
    pixel = 1 / (table.size * resolution)[..., None, None]  # in half sides
    kind = table.texture[..., None, None]
    stripe = STRIPES / 4 - (_wrapped(down, STRIPES)).abs()
    dot = DOT_RADIUS - torch.hypot(_wrapped(across, DOTS), _wrapped(down, DOTS))
    inside = torch.where(kind == 1, stripe, dot)
    return torch.where(kind == 0, 0.0, (inside / pixel + 0.5).clamp_(0, 1))


def _wrapped(x: Tensor, period: float) -> Tensor:
    """Distance to the nearest multiple of `period`, signed."""
    return x - period * (x / period).round()


def _light(across: Tensor, down: Tensor, table: SceneTable) -> Tensor:
    """Factor of brightness, 1 at the centre: (B, 3, R, R). Turned with the object, by 15 degrees at most."""
    sides = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    side = sides[table.light]  # (B, 3, 2)
    along = side[..., 0, None, None] * across + side[..., 1, None, None] * down
    return 1 + LIGHT_DEPTH * along.clamp(-1, 1)


def _checked(scenes: SceneTable | Sequence[Scene], resolution: int) -> SceneTable:
    if resolution not in RESOLUTIONS:
        raise ValueError(f"scenes: {resolution=}; choose from: {', '.join(map(str, RESOLUTIONS))}")
    return scenes if isinstance(scenes, SceneTable) else SceneTable.of(scenes)


# ---- shapes ------------------------------------------------------------------------------------------------

_REACH = 1.25
"""Half sides that the table of distances spans either way; beyond it every pixel is outside."""
_CELLS = 160
"""Of the table, per side."""


@cache
def outlines() -> dict[str, list[Tensor]]:
    """Shape => closed loops (P, 2) of points x, y in half sides, y down; inside by the even-odd rule."""
    circle = _arc(0, 2 * math.pi, 65)[:-1]
    ring = [circle * 0.97, circle * 0.52]
    return {
        "circle": [circle * 0.95],
        "square": [torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 0.8],
        "triangle": [torch.tensor([[0.0, -0.92], [0.87, 0.66], [-0.87, 0.66]])],
        "star": [_star(5, 1.0, 0.42)],
        "ring": ring,
        "cross": [_cross(0.95, 0.32)],
        "heart": [_heart()],
        "diamond": [torch.tensor([[0.0, -1.0], [0.62, 0.0], [0.0, 1.0], [-0.62, 0.0]])],
        "pentagon": [_star(5, 1.0, math.cos(math.pi / 5))],
        "crescent": [_crescent()],
        "arrow": [_arrow()],
        "oval": [circle * torch.tensor([1.0, 0.56])],
    }


def _arc(start: float, stop: float, num: int) -> Tensor:
    angle = torch.linspace(start, stop, num)
    return torch.stack([angle.cos(), angle.sin()], 1)


def _star(points: int, outer: float, inner: float) -> Tensor:
    """Tips at `outer`, notches at `inner`, the first tip up; inner = cos(pi / points) is a polygon."""
    spokes = _arc(-math.pi / 2, 1.5 * math.pi, 2 * points + 1)[:-1]
    return spokes * torch.tensor([outer, inner]).repeat(points)[:, None]


def _cross(arm: float, half: float) -> Tensor:
    corner = torch.tensor([[half, -arm], [half, -half], [arm, -half]])  # of the top right quarter
    quarters = []
    for _ in range(4):
        quarters.append(corner)
        corner = torch.stack([-corner[:, 1], corner[:, 0]], 1)  # a quarter turn clockwise
    return torch.cat(quarters)


def _heart() -> Tensor:
    """The curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, centred."""
    t = torch.linspace(0, 2 * math.pi, 65)[:-1]
    across = 16 * t.sin() ** 3
    up = 13 * t.cos() - 5 * (2 * t).cos() - 2 * (3 * t).cos() - (4 * t).cos()
    return torch.stack([across, -(up + 2.5)], 1) / 17.3


def _crescent() -> Tensor:
    """A disc less a smaller one to its right, open to the right."""
    outer, inner, offset = 0.97, 0.8, 0.45
    across = (outer**2 - inner**2 + offset**2) / (2 * offset)
    height = math.sqrt(outer**2 - across**2)
    far = math.atan2(height, across)
    near = math.atan2(height, across - offset)
    back = _arc(far, 2 * math.pi - far, 48) * outer
    front = _arc(2 * math.pi - near, near, 48)[1:-1] * inner + torch.tensor([offset, 0.0])
    return torch.cat([back, front]) + torch.tensor([0.2, 0.0])


def _arrow() -> Tensor:
    upper = torch.tensor([[-0.98, -0.26], [0.12, -0.26], [0.12, -0.78], [0.98, 0.0]])
    return torch.cat([upper, upper[:3].flip(0) * torch.tensor([1.0, -1.0])])


@cache
def _padded_outlines() -> Tensor:
    """(12, P, 2): the points of every shape's loops, the last one repeated."""
    whole = [torch.cat(outlines()[name]) for name in SHAPES]
    most = max(len(points) for points in whole)
    return torch.stack([torch.cat([points, points[-1:].expand(most - len(points), 2)]) for points in whole])


def distances(cells: int, reach: float) -> Tensor:
    """(12, cells, cells): signed distance in half sides from each cell's centre to each shape's outline,
    negative inside; the cells span `reach` half sides either way."""
    line = ((torch.arange(cells) + 0.5) / cells * 2 - 1) * reach
    down, across = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([across, down], -1).view(-1, 1, 2)
    return torch.stack([_distance(points, outlines()[name]).view(cells, cells) for name in SHAPES])


@cache
def _fields() -> Tensor:
    """(1, 1, 12 S, S) `distances`; the shapes lie under one another, so that one lookup serves all."""
    return distances(_CELLS, _REACH).view(1, 1, -1, _CELLS)


def _distance(points: Tensor, loops: list[Tensor]) -> Tensor:
    """(n, 1, 2) => (n,) signed distance to polygons: the nearest edge; parity of edges to the right."""
    start = torch.cat(loops)
    stop = torch.cat([loop.roll(-1, 0) for loop in loops])
    edge, offset = stop - start, points - start  # (e, 2), (n, e, 2)
    along = ((offset * edge).sum(-1) / edge.square().sum(-1)).clamp(0, 1)
    nearest = torch.hypot(*(offset - along[..., None] * edge).unbind(-1)).amin(1)
    straddles = (start[:, 1] > points[..., 1]) != (stop[:, 1] > points[..., 1])
    crossing = start[:, 0] + (points[..., 1] - start[:, 1]) * edge[:, 0] / edge[:, 1]
    inside = (straddles & (points[..., 0] < crossing)).sum(1) % 2 == 1
    return torch.where(inside, -nearest, nearest)
