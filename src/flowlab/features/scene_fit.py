"""The colour and the texture of each piece of a picture: those whose drawing comes nearest to its pixels.

The shape, place and size that the network named are drawn again at a few angles and blurs, the second tone of
a texture as the first waves of stripes or dots, at any phase: stripes that begin elsewhere are stripes too.
Every such drawing is linear in the colour, so its best colour and what it leaves unexplained have a closed
form, from inner products alone. Pixels of edges and of second tones thus tell of the colour as well, which is
all that a small or blurred object has.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from flowlab.features.scene_pieces import Pieces, cut

__all__ = ["CELLS", "REACH", "TEXTURES", "fit"]

TEXTURES = ("plain", "striped", "dotted")
STRIPES, DOTS, DOT_RADIUS = 0.6, 0.62, 0.2
"""Distance between stripes, between dots, and a dot's radius, in half sides of the object, as scenes draw."""
SHADE, BRIGHT = 0.45, 100.0
"""Share of black in the second tone of colours of at least this luma (0..255), of white in that of others."""
CELLS, REACH = 48, 1.5
"""Of a table of signed distances to an outline: cells per side, and half sides that it spans either way."""
ANGLES = (-10.0, 0.0, 10.0)
"""Degrees at which a shape is drawn again; scenes turn it by up to 14."""
BLURS = (0.3, 0.8, 1.3)
"""Standard deviations in pixels of 64 x 64."""
SAMPLES = 28
"""Side of the cut-out on which drawings are compared."""
BLUR_COST, TEXTURE_COST, SLACK = 1.0, 0.5, 6.0
"""What a drawing must gain for a wider blur and for a texture, in root mean square differences of 0..255; and
the luma by which a colour may miss BRIGHT before that costs as much."""
_AT_ONCE = 64
"""Pieces, of 0.4 MB each."""
_LUMA = (0.299, 0.587, 0.114)


def fit(found: Pieces, outlines: Tensor, place: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Colours (n, 3) in 0..255 and textures (n,) int64, places in TEXTURES, of n pieces.

    `outlines` (n, CELLS, CELLS): signed distance to the outline of each piece's shape in half sides, negative
    inside, at the cells' centres; `place` (n, 2) x, y and `size` (n,), half a side, in pixels of 64 x 64.
    """
    crops, colours = cut(found, SAMPLES)
    ground = found.background[found.image]
    seen = (colours - ground[:, :, None, None]).flatten(2)  # (n, 3, P)
    near_others = F.max_pool2d((crops[:, 4:] > 0.1).float(), 3, 1, 1)
    weight = 1 - near_others.flatten(1)  # (n, P)
    frame = _frame(found, place, size)
    fitted = []
    for rows in torch.arange(len(size), device=size.device).split(_AT_ONCE):
        maps = _drawings(*(part[rows] for part in (*frame, outlines, size, found.half)))
        fitted.append(_best(seen[rows], weight[rows], ground[rows], maps))
    return torch.cat([colour for colour, _ in fitted]), torch.cat([texture for _, texture in fitted])


def _best(seen: Tensor, weight: Tensor, ground: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """`fit` of seen (n, 3, P) with K drawings (n, K, 11, P) in O tones, by inner products of the 3 + 11."""
    features = torch.cat([seen[:, None].expand(-1, maps.shape[1], -1, -1), maps], 2)  # (n, K, 14, P)
    gram = (features * weight[:, None, None]) @ features.mT
    shares, white, texture = (part.to(seen.device) for part in _tones())
    own, rest = _terms(shares, white, ground)  # (O, 14), (n, O, 3, 14): colour x own should equal rest
    left = own @ gram  # (n, K, O, 14)
    strength = (left * own).sum(-1)[..., None].clamp(min=1e-3)  # (n, K, O, 1)
    along = torch.einsum("nkof,nocf->nkoc", left, rest)
    colour = (along / strength).clamp(0, 255)  # (n, K, O, 3)
    whole = torch.einsum("nocf,nkfg,nocg->nkoc", rest, gram, rest)
    missed = (whole - 2 * colour * along + colour.square() * strength).sum(-1).clamp(min=0)  # (n, K, O)
    samples = weight.sum(1).clamp(min=1)[:, None, None]
    cost = (missed / samples).sqrt() + _odds(colour, white, texture)
    best = cost.flatten(1).argmin(1)
    n, k, o = torch.arange(len(seen), device=seen.device), best // len(texture), best % len(texture)
    ink, aim = own[o][:, None] @ features[n, k], rest[n, o] @ features[n, k]  # (n, 1, P), (n, 3, P)
    return _refined(colour[n, k, o], ink, aim, weight), texture[o]


def _refined(colour: Tensor, ink: Tensor, aim: Tensor, weight: Tensor) -> Tensor:
    """The colours (n, 3) once more, with less weight on pixels further off than usual (Cauchy's)."""
    off = (aim - ink * colour[..., None]).square().sum(1, keepdim=True).sqrt()  # (n, 1, P)
    inside = ink.clamp(min=0) * weight[:, None]
    usual = (off * inside).sum(2, keepdim=True) / inside.sum(2, keepdim=True).clamp(min=1e-3)
    trusted = weight[:, None] * ink / (1 + (off / (usual + 0.5)).square())
    return ((trusted * aim).sum(2) / (trusted * ink).sum(2).clamp(min=1e-3)).clamp(0, 255)


# ---- drawings ----------------------------------------------------------------------------------------------


def _frame(found: Pieces, place: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Where the samples lie from each object's centre, in half sides: x (n, S) and y (n, S)."""
    line = (torch.arange(SAMPLES, device=size.device) + 0.5) / SAMPLES * 2 - 1
    samples = found.centre[..., None] + line * found.half[:, None, None]  # (n, 2, S) pixels
    across, down = ((samples - place[..., None]) / size[:, None, None]).unbind(1)
    return across, down


def _drawings(across: Tensor, down: Tensor, outlines: Tensor, size: Tensor, half: Tensor) -> Tensor:
    """(n, K, 11, P): blurred coverage, times one and each of the ten waves of `_waves`."""
    angle = torch.deg2rad(torch.tensor(ANGLES, device=size.device))[:, None, None]
    x, y = across[:, None, None, :], down[:, None, :, None]
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()  # (n, angles, S, S)
    grid = torch.stack([x, y], -1).flatten(1, 2) / REACH  # (n, angles S, S, 2)
    distance = F.grid_sample(outlines[:, None], grid, padding_mode="border", align_corners=False)
    cover = (0.5 - distance.view_as(x) * size[:, None, None, None]).clamp(0, 1)
    waves = _waves(x, y)  # (n, angles, 11, S, S)
    maps = []
    for blur in BLURS:
        spread = _blur_matrix(blur * SAMPLES / (2 * half))  # (n, S, S)
        blurred = spread[:, None] @ cover @ spread.mT[:, None]
        maps.append(blurred[:, :, None] * waves * _damping(blur, size)[:, None, :, None, None])
    return torch.stack(maps, 1).flatten(1, 2).flatten(3)


def _waves(x: Tensor, y: Tensor) -> Tensor:
    """1; cosine and sine of y / STRIPES; of x / DOTS, y / DOTS; and the four products of these."""
    turn = 2 * math.pi
    cx, sx, cy, sy = (wave(turn * z / DOTS) for z in (x, y) for wave in (torch.cos, torch.sin))
    stripes = (turn * y / STRIPES).cos(), (turn * y / STRIPES).sin()
    return torch.stack([torch.ones_like(x), *stripes, cx, sx, cy, sy, cx * cy, cx * sy, sx * cy, sx * sy], 2)


def _damping(blur: float, size: Tensor) -> Tensor:
    """(n, 11): what blur and the width of a pixel leave of each wave."""
    stripes, dots = (2 * math.pi / (period * size) for period in (STRIPES, DOTS))  # radians per pixel
    one, two = (torch.exp(-(k * blur).square() / 2) * torch.sinc(k / (2 * math.pi)) for k in (stripes, dots))
    return torch.stack([torch.ones_like(size), *[one] * 2, *[two] * 4, *[two * two] * 4], 1)


def _blur_matrix(sigma: Tensor) -> Tensor:
    """(n, S, S): rows of Gaussian weights of standard deviation sigma (n,) samples."""
    line = torch.arange(SAMPLES, device=sigma.device)
    weights = torch.exp(-((line[:, None] - line) / sigma[:, None, None]).square() / 2)
    return weights / weights.sum(-1, keepdim=True)


# ---- tones -------------------------------------------------------------------------------------------------


@cache
def _tones() -> tuple[Tensor, Tensor, Tensor]:
    """Shares (O, 11) of the second tone as sums of waves, whether (O,) that tone is mixed with white, and
    textures (O,): plain, and all phases of stripes and dots with black and with white."""
    shares, texture = [torch.zeros(11)], [0]
    for phase in _phases(8):
        shares.append(torch.cat([torch.tensor([0.5]), 2 / math.pi * phase, torch.zeros(8)]))  # half wide
        texture.append(1)
    ratio = torch.tensor(DOT_RADIUS / DOTS)  # a lattice of discs has Bessel's J1 for coefficients
    straight, slant = (
        ratio / k * torch.special.bessel_j1(2 * math.pi * k * ratio) for k in (1, math.sqrt(2))
    )
    for x in _phases(4):
        for y in _phases(4):
            both = 4 * slant * (x[:, None] * y).flatten()
            mean = math.pi * ratio.square()[None]
            shares.append(torch.cat([mean, torch.zeros(2), 2 * straight * x, 2 * straight * y, both]))
            texture.append(2)
    num = len(shares)
    white = torch.arange(2 * num - 1) >= num
    return torch.stack([*shares, *shares[1:]]), white.float(), torch.tensor([*texture, *texture[1:]])


def _phases(num: int) -> Tensor:
    angle = 2 * math.pi * torch.arange(num) / num
    return torch.stack([angle.cos(), angle.sin()], 1)


def _terms(shares: Tensor, white: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients of the features (seen r, g, b, then maps) for each tone: with s the share of the second
    tone, seen = cover x (colour (1 - SHADE s) + white SHADE 255 s - ground) is solved for the colour."""
    n, num = len(ground), len(shares)
    none = torch.zeros(num, 3, device=ground.device)
    cover = F.one_hot(torch.zeros_like(white, dtype=torch.long), shares.shape[1])  # (O, 11)
    own = torch.cat([none, cover - SHADE * shares], 1)
    paint = 255 * SHADE * white[:, None] * shares  # (O, 11)
    maps = ground[:, None, :, None] * cover[:, None] - paint[:, None]  # (n, O, 3, 11)
    channels = torch.eye(3, device=ground.device).expand(n, num, 3, 3)
    return own, torch.cat([channels, maps], -1)


def _odds(colour: Tensor, white: Tensor, texture: Tensor) -> Tensor:
    """(n, K, O): what speaks against a drawing beforehand."""
    blur = torch.arange(len(BLURS), device=colour.device).repeat_interleave(len(ANGLES))[:, None] * BLUR_COST
    luma = (colour * torch.tensor(_LUMA, device=colour.device)).sum(-1)
    wrong_side = (luma - BRIGHT) * (2 * white - 1) * (texture > 0)
    return blur + TEXTURE_COST * (texture > 0) + (wrong_side - SLACK).clamp(min=0)
