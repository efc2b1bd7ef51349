"""Published autoencoder recipes on ImageNet at 256 pixels, their numbers translated to our reductions.

LDM sums |x - y| + LPIPS over the N = 3 x 256 x 256 values of an image, and KL over its latent. Here
reconstruction and LPIPS are means, so the whole is divided by N: 1 x L1, 1 x LPIPS, and KL in summed nats at
1e-6 / N = 5.1e-12. Adam does not feel the common factor; adaptive weights are ratios of gradients and keep
their published value, but LDM's limit of 1e4 on the PatchGAN's is 1e4 / N = 0.051. REPA-E averages L1 and
LPIPS but sums KL, as here: its 1e-6 stays 1e-6.

None was run to its end by us; expected numbers are the authors'. Files asked for: images as class folders
in data/imagenet/{train,heldout}, and the two published files of LPIPS in data/. Teachers, and weights to
start from, are hub ids or folders. A `debug` form is the same recipe, every term on, on `digits`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flowlab.train.autoencoder import (
    AdversaryConfig,
    AutoencoderConfig,
    EndToEndConfig,
    EquivarianceConfig,
)
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig

__all__ = [
    "ae_eqvae_imagenet",
    "ae_flux1_imagenet",
    "ae_flux2_imagenet",
    "ae_repae_imagenet",
    "ae_scale_imagenet",
    "ae_sd_ft_mse_imagenet",
    "ae_sd_imagenet",
    "ae_vavae_imagenet",
    "rae_decoder_imagenet",
]

NUM_IMAGES = 1_281_167  # of ImageNet's training set
LDM_KL = 1e-6 / (3 * 256 * 256)  # on KL in summed nats, where L1 and LPIPS are means
LDM_RATE = 4.5e-6  # per image of the batch
SAVES: dict[str, Any] = {"save_every": 5000, "keep": 2}  # a stop costs 5,000 updates at most

SMALL = {  # the embedded autoencoder that stands for each in the debug form
    "sd_f8c4": "sd",
    "flux1_f8c16": "flux1",
    "flux2_f8c32": "flux2",
    "vavae_f16c32": "flux2_plain",
    "rae_dinov2_base": "rae",
}


# ---- Stable Diffusion's and FLUX's -------------------------------------------------------------------------


def ae_sd_imagenet(debug: bool = False) -> AutoencoderConfig:
    """LDM's kl-f8, which is Stable Diffusion's. `flowlab train ae_sd_imagenet`.

    L1 and LPIPS 1 (means), KL 5.1e-12 (sum), PatchGAN 0.5 adaptive from update 50,001; 246,803 updates.
    LDM accumulates 12 images twice; a discriminator's BatchNorm forbids that here, so 24 at once.
    Expected (SD's original, COCO 5k): PSNR 23.4 dB, SSIM 0.69, PSIM 1.01.
    """
    return _ldm("sd_f8c4", debug, start=50_001, num_steps=246_803)


def ae_sd_ft_mse_imagenet(debug: bool = False) -> AutoencoderConfig:
    """SD's decoder tuned for squared error; its latent stays. `flowlab train ae_sd_ft_mse_imagenet`.

    L2 1 and LPIPS 0.1 (means), no KL, no GAN, batch 192, 280,000 updates; the rate and the EMA's decay are
    ours, the authors name none. Expected (COCO 5k): PSNR 24.5 dB, SSIM 0.71, PSIM 0.92.
    """
    config = _recipe(
        "sd_f8c4",
        initial="stabilityai/sd-vae-ft-ema",
        train_encoder=False,
        reconstruction_power=2,
        perceptual_weight=0.1,
        kl_weight=0.0,
        ema_decay=0.9999,
        optimiser=OptimiserConfig(learning_rate=1e-4, betas=(0.5, 0.9)),
        loop=LoopConfig(batch_size=192, num_steps=280_000, clip_norm=0.0, **SAVES),
    )
    return _rehearsal(config) if debug else config


def ae_flux1_imagenet(debug: bool = False) -> AutoencoderConfig:
    """16 channels under LDM's losses. `flowlab train ae_flux1_imagenet`.

    Weights as ae_sd_imagenet; FLUX.1's own recipe is unpublished. Expected (its released weights, ImageNet):
    PSNR 31.1 dB, SSIM 0.889.
    """
    return _ldm("flux1_f8c16", debug, start=50_001, num_steps=250_000)


def ae_flux2_imagenet(debug: bool = False) -> AutoencoderConfig:
    """32 channels, BatchNorm statistics, semantic alignment. `flowlab train ae_flux2_imagenet`.

    Weights as ae_sd_imagenet, and VA-VAE's loss 0.1 adaptive (mean over tokens plus mean over pairs). A
    reading: FLUX.2's recipe is unpublished, its latent behaves like an aligned one. Expected (its released
    weights, ImageNet): PSNR 31.5 dB, SSIM 0.904.
    """
    return _ldm(
        "flux2_f8c32",
        debug,
        start=50_001,
        num_steps=250_000,
        teacher="facebook/dinov2-large",
        semantic_weight=0.1,
        semantic_adaptive=True,
    )


# ---- regularised latents -----------------------------------------------------------------------------------


def ae_vavae_imagenet(debug: bool = False) -> AutoencoderConfig:
    """VA-VAE (arXiv 2501.01423), 16 x 16 x 32. `flowlab train ae_vavae_imagenet`.

    LDM's losses (PatchGAN from update 5,001) and VF 0.1 adaptive (means over tokens and over pairs) with
    margins 0.5 and 0.25; rate 1e-4, float32, batch 256, 50 epochs. The published file ran 100 epochs at VF
    0.5 without margins, then 15 at 0.1, then 15 with margins. Expected: rFID
    0.28.
    """
    return _ldm(
        "vavae_f16c32",
        debug,
        start=5_001,
        num_steps=50 * NUM_IMAGES // 256,
        batch_size=256,
        rate=1e-4,
        teacher="facebook/dinov2-large",
        teacher_input="plain",
        semantic_weight=0.1,
        semantic_adaptive=True,
        precision="float32",
    )


def ae_eqvae_imagenet(debug: bool = False) -> AutoencoderConfig:
    """EQ-VAE (arXiv 2502.09509) on SD's weights. `flowlab train ae_eqvae_imagenet`.

    LDM's losses with the PatchGAN from the first update; half of the steps on a scaled and turned latent, a
    quarter of the rest on smaller images; 44 epochs. Expected (released, with EMA): rFID 0.55, PSNR 26.15 dB.
    """
    return _ldm(
        "sd_f8c4",
        debug,
        start=0,
        num_steps=44 * NUM_IMAGES // 24,
        initial="stabilityai/sd-vae-ft-mse",
        equivariance=EquivarianceConfig(probability=0.5),
        ema_decay=0.9999,
    )


def ae_scale_imagenet(debug: bool = False) -> AutoencoderConfig:
    """Scale equivariance (arXiv 2502.14831) on FLUX.1's weights. `flowlab train ae_scale_imagenet`.

    L1 and LPIPS 1 (means) and 0.25 times the same of the halved or quartered latent, KL 5.1e-12 (sum), no
    GAN, 20,000 updates; rate and batch are ours. Expected: about 19 % less FID of the generator behind it.
    """
    config = _recipe(
        "flux1_f8c16",
        initial="data/flux1_autoencoder.safetensors",
        scale_weight=0.25,
        ema_decay=0.999,
        optimiser=OptimiserConfig(learning_rate=1e-5),
        loop=LoopConfig(batch_size=64, num_steps=20_000, **SAVES),
    )
    return _rehearsal(config) if debug else config


def ae_repae_imagenet(debug: bool = False) -> AutoencoderConfig:
    """REPA-E (arXiv 2504.10483) on SD's weights. `flowlab train ae_repae_imagenet`.

    L1 and LPIPS 1 (means), KL 1e-6 (sum), PatchGAN 0.1 constant from the first update, alignment 1.5 (mean
    cosine) through SiT-XL's block 8; the flow model's own loss has alignment 0.5. Batch 256, 400,000 updates.
    The authors start from a trained discriminator. Expected: gFID 4.07 of the flow model behind it after 80
    epochs.
    """
    rate = OptimiserConfig(learning_rate=1e-4)
    config = _recipe(
        "sd_f8c4",
        initial="stabilityai/sd-vae-ft-mse",
        teacher="facebook/dinov2-base",
        kl_weight=1e-6,
        adversary=AdversaryConfig(weight=0.1, adaptive=False, optimiser=rate),
        end_to_end=EndToEndConfig(weight=1.5, backbone="XL", block=8, hidden=2048, optimiser=rate),
        ema_decay=0.9999,
        optimiser=rate,
        loop=LoopConfig(batch_size=256, num_steps=400_000, clip_norm=1.0, **SAVES),
    )
    return _rehearsal(config) if debug else config


# ---- representation autoencoders ---------------------------------------------------------------------------


def rae_decoder_imagenet(debug: bool = False) -> AutoencoderConfig:
    """RAE's decoder on DINOv2-B (arXiv 2510.11690). `flowlab train rae_decoder_imagenet`.

    L1 and LPIPS 1 (means), feature GAN 0.75 adaptive: the discriminator learns from epoch 6, the decoder
    feels it from epoch 8; noise 0.8; 16 epochs of batch 512, rate 2e-4 after one epoch of warm-up, EMA
    0.9978. The authors' critic is DINO ViT-S/8 with a fifth head on its last norm (here DINOv2-S, four
    heads), their cosine ends at 2e-5 (here at 0) and they crop 256 out of 384 at random. Expected: rFID 0.57.
    """
    epoch = NUM_IMAGES // 512
    rate = OptimiserConfig(learning_rate=2e-4, betas=(0.9, 0.95), schedule="cosine", warmup_images=NUM_IMAGES)
    config = _recipe(
        "rae_dinov2_base",
        teacher="facebook/dinov2-with-registers-base",
        kl_weight=0.0,
        latent_noise=0.8,
        adversary=AdversaryConfig(
            weight=0.75,
            kind="features",
            epsilon=1e-6,
            discriminator_start=6 * epoch,
            generator_start=8 * epoch,
            augment=True,
            round_fakes=True,
            features="facebook/dinov2-small",
            blocks=(2, 5, 8, 11),
            optimiser=rate,
        ),
        ema_decay=0.9978,
        optimiser=rate,
        loop=LoopConfig(batch_size=512, num_steps=16 * epoch, clip_norm=0.0, **SAVES),
    )
    return _rehearsal(config) if debug else config


# ---- shared settings ---------------------------------------------------------------------------------------


def _ldm(
    autoencoder: str,
    debug: bool,
    *,
    start: int,
    num_steps: int,
    batch_size: int = 24,
    rate: float | None = None,
    **terms: Any,
) -> AutoencoderConfig:
    """LDM's losses, Adam (0.5, 0.9) at 4.5e-6 per image of the batch, no clipping, no EMA (decay 0)."""
    optimiser = OptimiserConfig(learning_rate=rate or LDM_RATE * batch_size, betas=(0.5, 0.9))
    settings: dict[str, Any] = {
        "adversary": AdversaryConfig(
            weight=0.5, discriminator_start=start, generator_start=start, optimiser=optimiser
        ),
        "ema_decay": 0.0,
        "optimiser": optimiser,
        "loop": LoopConfig(batch_size=batch_size, num_steps=num_steps, clip_norm=0.0, **SAVES),
    }
    config = _recipe(autoencoder, **(settings | terms))
    return _rehearsal(config) if debug else config


def _recipe(autoencoder: str, **settings: Any) -> AutoencoderConfig:
    """What all share: the data, LPIPS at 1 beside the mean of L1, LDM's KL."""
    shared: dict[str, Any] = {
        "dataset": "data/imagenet",
        "num_images": NUM_IMAGES,
        "resize": "adm",
        "perceptual": "lpips",
        "perceptual_weight": 1.0,
        "vgg_trunk": "data/vgg16-397923af.pth",
        "vgg_heads": "data/lpips_vgg.pth",
        "kl_weight": LDM_KL,
    }
    return AutoencoderConfig(autoencoder=autoencoder, **(shared | settings))


def _rehearsal(config: AutoencoderConfig) -> AutoencoderConfig:
    """Every term of `config` from the first of two steps, on what ships with the package."""
    small = SMALL[config.autoencoder]
    return replace(
        config,
        autoencoder=small,
        initial=small if config.initial else "",
        dataset="digits",
        num_images=64,
        resize="exact",
        teacher="teacher",
        teacher_input="published",
        perceptual="embedded",
        vgg_trunk="",
        vgg_heads="",
        adversary=replace(
            config.adversary,
            discriminator_start=0,
            generator_start=0,
            channels=8,
            features="teacher",
            blocks=(),
        ),
        end_to_end=replace(config.end_to_end, backbone="tiny", block=2, hidden=64),
        normalisation_images=64,
        loop=replace(config.loop, batch_size=8, num_steps=2),
    )
