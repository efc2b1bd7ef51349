"""The families of convolutional autoencoders, and which of them a spec belongs to.

Some families differ in nothing that a file shows: SD and SDXL, FLUX.1 and SD3. A diffusers config tells them
apart by its scaling_factor; for a single file the first of a group is taken and `variant` names another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from flowlab.core.choices import lookup

if TYPE_CHECKING:
    from flowlab.autoencoders.kl import KLSpec

__all__ = ["FAMILIES", "Family", "choose", "family_of", "group_of", "possible"]


class Family(NamedTuple):
    """What the files of a family have in common."""

    title: str
    group: str
    """Families of one group look the same."""
    scale: float = 1.0
    """The final latent is (z - shift) scale."""
    shift: float = 0.0


FAMILIES: dict[str, Family] = {
    #              title                  group       scale    shift    origin
    "sd":    Family("Stable Diffusion",   "sd",       0.18215, 0.0),  # latent-diffusion: 1 / std, measured
    "sdxl":  Family("SDXL",               "sd",       0.13025, 0.0),  # its config
    "flux1": Family("FLUX.1",             "flux1",    0.3611,  0.1159),  # its published code
    "sd3":   Family("Stable Diffusion 3", "flux1",    1.5305,  0.0609),  # its config
    "flux2": Family("FLUX.2",             "flux2"),  # BatchNorm statistics, in the file
    "vavae": Family("VA-VAE",             "vavae"),  # statistics in a file of their own: fit them
    "ldm":   Family("latent diffusion",   "ldm"),  # any other; nothing tells its scale: give `scale`
}  # fmt: skip


def choose(spec: KLSpec, wanted: str | None, where: str) -> str:
    """The family of a file of `spec`: `wanted` if that is possible, else the first of its group."""
    group = group_of(spec)
    if wanted is None:
        return group[0]
    lookup(FAMILIES, wanted, "autoencoder family")
    if wanted not in group:
        raise ValueError(
            f"{where}: this is a {FAMILIES[group[0]].title} autoencoder, not {FAMILIES[wanted].title}"
            f" (its keys and shapes allow: {', '.join(group)})"
        )
    return wanted


def family_of(spec: KLSpec) -> str:
    """The likeliest of `possible`."""
    return possible(spec)[0]


def possible(spec: KLSpec) -> list[str]:
    """Of its group, the family whose scale and shift `spec` has; all where none has, as with fitted ones."""
    group = group_of(spec)
    own = [name for name in group if (FAMILIES[name].scale, FAMILIES[name].shift) == (spec.scale, spec.shift)]
    return own or group


def group_of(spec: KLSpec) -> list[str]:
    """The families that look like `spec`, the likeliest first."""
    if spec.normalisation == "batchnorm" and spec.patch > 1:
        group = "flux2"
    elif not spec.quant_conv and not spec.attention_levels:
        group = "flux1"
    elif spec.attention_levels:
        group = "vavae" if (len(spec.multipliers), spec.latent_channels) == (5, 32) else "ldm"
    else:
        group = "sd" if (len(spec.multipliers), spec.latent_channels) == (4, 4) else "ldm"
    return [name for name, family in FAMILIES.items() if family.group == group]
