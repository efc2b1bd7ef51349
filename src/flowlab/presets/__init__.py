"""Experiments as functions: each returns one full configuration; `debug=True` is its rehearsal of seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowlab.presets import ablation, digits, imagenet, photos, scenes, text

__all__ = ["PRESETS"]

PRESETS: dict[str, Callable[..., Any]] = {
    "teacher_digits": digits.teacher_digits,
    "judge_digits": digits.judge_digits,
    "ae_sd_digits": digits.ae_sd_digits,
    "ae_flux1_digits": digits.ae_flux1_digits,
    "ae_flux1_semantic_digits": digits.ae_flux1_semantic_digits,
    "ae_flux2_digits": digits.ae_flux2_digits,
    "ae_flux2_plain_digits": digits.ae_flux2_plain_digits,
    "ae_rae_digits": digits.ae_rae_digits,
    "ae_flux2_photos": photos.ae_flux2_photos,
    "ae_flux2_scenes": scenes.ae_flux2_scenes,
    "ae_flux2_scenes_clean": scenes.ae_flux2_scenes_clean,
    "ae_flux2_scenes_noise": scenes.ae_flux2_scenes_noise,
    "scene_reader": scenes.scene_reader,
    "ae_ablation_none": ablation.ae_ablation_none,
    "ae_ablation_kl": ablation.ae_ablation_kl,
    "ae_ablation_kl_raised": ablation.ae_ablation_kl_raised,
    "ae_ablation_vf": ablation.ae_ablation_vf,
    "ae_ablation_vf_strong": ablation.ae_ablation_vf_strong,
    "ae_ablation_eq": ablation.ae_ablation_eq,
    "ae_ablation_scale": ablation.ae_ablation_scale,
    "ae_ablation_repae": ablation.ae_ablation_repae,
    "flow_flux2_digits": digits.flow_flux2_digits,
    "ae_sd_imagenet": imagenet.ae_sd_imagenet,
    "ae_sd_ft_mse_imagenet": imagenet.ae_sd_ft_mse_imagenet,
    "ae_flux1_imagenet": imagenet.ae_flux1_imagenet,
    "ae_flux2_imagenet": imagenet.ae_flux2_imagenet,
    "ae_vavae_imagenet": imagenet.ae_vavae_imagenet,
    "ae_eqvae_imagenet": imagenet.ae_eqvae_imagenet,
    "ae_scale_imagenet": imagenet.ae_scale_imagenet,
    "ae_repae_imagenet": imagenet.ae_repae_imagenet,
    "rae_decoder_imagenet": imagenet.rae_decoder_imagenet,
    "flux2_scenes_lone": text.flux2_scenes_lone,
    "flux2_scenes_text": text.flux2_scenes_text,
    "flux2_scenes_edit": text.flux2_scenes_edit,
    "flux2_scenes": text.flux2_scenes,
    "flux2_klein_4b_folder": text.flux2_klein_4b_folder,
}
