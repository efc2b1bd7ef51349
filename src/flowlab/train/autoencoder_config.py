"""The configuration of autoencoder training: one small dataclass per switchable term, all off by default."""

from __future__ import annotations

from dataclasses import dataclass, field

from flowlab.autoencoders.kl import KLSpec
from flowlab.autoencoders.rae import PublishedRAESpec
from flowlab.autoencoders.sizes import AUTOENCODERS, PUBLISHED
from flowlab.backbones.sizes import SIZES
from flowlab.core.choices import lookup
from flowlab.core.devices import PRECISIONS
from flowlab.train import optim
from flowlab.train.flow import TimesConfig, check_times
from flowlab.train.loop import LoopConfig
from flowlab.train.optim import OptimiserConfig

__all__ = [
    "SPECS",
    "AdversaryConfig",
    "AutoencoderConfig",
    "EndToEndConfig",
    "EquivarianceConfig",
    "resolution_of",
    "validate",
]

SPECS = AUTOENCODERS | PUBLISHED  # every architecture that trains
PERCEPTUAL = {"embedded": "the teacher's hidden states", "lpips": "VGG16 with LPIPS' heads, from local files"}
DISCRIMINATORS = {"patch": "PatchGAN on pixels", "features": "heads on a frozen vision transformer"}
TEACHER_INPUTS = {"published": "each network's own", "plain": "[-1, 1] as it is, bilinear, as VA-VAE's"}


@dataclass(frozen=True, kw_only=True)
class EquivarianceConfig:
    """EQ-VAE (arXiv 2502.09509): a scaled and turned latent must decode to the image scaled and turned."""

    probability: float = 0.0
    """Of a step with a transformed latent, under the whole loss; EQ-VAE uses 0.5, 0 turns all of it off."""
    downscale_probability: float = 0.25
    """Of a plain step on smaller images, among the steps that are left."""


@dataclass(frozen=True, kw_only=True)
class EndToEndConfig:
    """REPA-E (Leng et al. 2025, arXiv 2504.10483): a small flow model trains beside the autoencoder, and its
    alignment loss, never its flow loss, shapes the encoder. The flow model is dropped on export."""

    weight: float = 0.0
    """On the autoencoder's share: mean negative cosine over tokens; REPA-E uses 1.5, 0 turns all of it
    off."""
    flow_weight: float = 0.5
    """On the same loss in the flow model's own objective, beside the mean squared velocity error."""
    backbone: str = "tiny"
    """A key of backbones.sizes.SIZES."""
    block: int = 2
    """The block, counted from 1, whose output is aligned."""
    hidden: int = 256
    """Width of the projector."""
    class_dropout: float = 0.1
    """Share of labels hidden from the flow model in its own objective."""
    times: TimesConfig = field(default_factory=lambda: TimesConfig(distribution="ts"))
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(learning_rate=1e-3))


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """A hinge discriminator; the autoencoder's and its own objective are two of one step."""

    weight: float = 0.0
    """On -mean d(output); 0 turns all of it off. LDM 0.5, RAE 0.75, both adaptive."""
    kind: str = "patch"
    """A key of DISCRIMINATORS."""
    adaptive: bool = True
    """Scale to the gradient of reconstruction + perceptual at the decoder's last layer (Esser et al. 2021,
    eq. 7), a ratio, so that the weight means the same whatever the reductions. Its limit of 1e4 does not:
    patch takes LDM's, on sums over an image (1e4 / 3 H W on means, which binds), features RAE's, on means."""
    epsilon: float = 1e-4
    """Added to the adaptive ratio's denominator; RAE 1e-6."""
    discriminator_start: int = 0
    """Updates made before the discriminator begins to learn."""
    generator_start: int = 0
    """Updates made before the autoencoder feels it; not before discriminator_start."""
    augment: bool = False
    """DiffAugment (colour and shift, no cut-out) before the discriminator."""
    round_fakes: bool = False
    """Show the discriminator fakes as 8 bits, so that it cannot win by the fractions."""
    channels: int = 64
    """patch: width of the first of three layers."""
    features: str = "teacher"
    """features: the frozen network, an embedded name, a .safetensors path, a folder or a hub id."""
    blocks: tuple[int, ...] = ()
    """features: the blocks, from 0, whose states get a head; () is all. RAE 2, 5, 8, 11."""
    kernel: int = 9
    """features: tokens that a head's convolution spans."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(betas=(0.5, 0.9)))


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """One autoencoder, its data and its loss weights."""

    autoencoder: str
    """A key of autoencoders.sizes.AUTOENCODERS or PUBLISHED."""
    initial: str = ""
    """Weights to start from: whatever autoencoders.load takes; "" starts fresh."""
    train_encoder: bool = True
    """False tunes the decoder alone: encoder and latent statistics stay as `initial` has them."""
    dataset: str = "digits"
    """A data set's name or the path of a folder of class folders."""
    num_images: int = 16_384
    """Training images (rendered data sets are unlimited)."""
    resize: str = "exact"
    """How images of a folder are brought to the autoencoder's resolution; ImageNet takes "adm"."""
    teacher: str = "teacher"
    """Frozen features for the perceptual, semantic and alignment terms and the RAE encoder: an embedded name,
    a .safetensors path, a folder or a hub id."""
    teacher_input: str = "published"
    """A key of TEACHER_INPUTS: what a teacher from a folder or hub sees."""
    reconstruction_power: int = 1
    """1 = L1, 2 = L2; the mean over pixels and colours has weight 1."""
    perceptual: str = "embedded"
    """A key of PERCEPTUAL."""
    perceptual_weight: float = 0.1
    """On the feature distance, the teacher's or LPIPS: mean over positions, sum over layers."""
    vgg_trunk: str = ""
    """lpips: path of torchvision's vgg16-397923af.pth."""
    vgg_heads: str = ""
    """lpips: path of LPIPS' vgg.pth (v0.1)."""
    kl_weight: float = 1e-6
    """On KL in nats summed over the latent; only for the KL family."""
    semantic_weight: float = 0.0
    """On the VF loss (VA-VAE); 0 turns it off."""
    semantic_margins: tuple[float, float] = (0.5, 0.25)
    """Of the cosine and of the distance matrix; (0, 0) is the first, longest stage of VA-VAE's published
    run."""
    semantic_adaptive: bool = False
    """Scale the VF loss to the reconstruction's gradient at the encoder's last layer (batch-level)."""
    equivariance: EquivarianceConfig = field(default_factory=EquivarianceConfig)
    scale_weight: float = 0.0
    """On a second reconstruction and perceptual loss, of the halved or quartered latent against the image
    reduced alike (arXiv 2502.14831); 0 turns it off."""
    end_to_end: EndToEndConfig = field(default_factory=EndToEndConfig)
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)
    latent_noise: float = 0.0
    """Noise of standard deviation U(0, latent_noise) before the decoder: on the latent in units of each
    channel's deviation (KL; an encoder that trains with it spreads what matters over its channels, compare
    Yang et al. 2025, arXiv 2507.15856), on the whitened latent (embedded RAE), on the features before it (RAE
    as published)."""
    normalisation_images: int = 4096
    """Training images behind the latent's normalisation."""
    ema_decay: float = 0.995
    """Per update."""
    precision: str = "bfloat16"
    """Of the networks; losses and weights stay float32. bfloat16 measured 1.7x faster here, on CPU too."""
    checkpointing: bool = False
    """Recompute each block's activations in the backward pass: less memory, a third more time."""
    channels_last: bool = False
    """Keep convolutions' tensors as NHWC in memory, which GPUs' bfloat16 convolutions want."""
    optimiser: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(learning_rate=1e-3, schedule="cosine")
    )
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(batch_size=32, num_steps=4000))


def validate(config: AutoencoderConfig) -> None:
    """Names, counts and terms that exclude each other; the data set's own are checked when it is read."""
    spec = lookup(SPECS, config.autoencoder, "autoencoder")
    lookup(PRECISIONS, config.precision, "precision")
    lookup(TEACHER_INPUTS, config.teacher_input, "teacher input")
    if config.num_images < 1 or config.normalisation_images < 2:
        raise ValueError(f"{config.num_images=}, {config.normalisation_images=}; ask for at least 1 and 2")
    _check_weights(config)
    _check_encoder(config, is_kl=isinstance(spec, KLSpec))
    _check_perceptual(config)
    _check_batch_level(config, is_kl=isinstance(spec, KLSpec))
    _check_shares(config)
    if config.adversary.weight:
        _check_adversary(config.adversary)
    if config.end_to_end.weight:
        _check_end_to_end(config.end_to_end)


def resolution_of(name: str) -> int:
    """Pixels per side at which the autoencoder `name` trains."""
    spec = lookup(SPECS, name, "autoencoder")
    if isinstance(spec, PublishedRAESpec):
        return spec.decoder.patch * spec.decoder.grid
    return spec.resolution if isinstance(spec, KLSpec) else spec.encoder.resolution


# ---- faults ------------------------------------------------------------------------------------------------


def _check_weights(config: AutoencoderConfig) -> None:
    """A negative weight would reward what it is to punish; a power of 0 sees no difference at all."""
    if config.reconstruction_power not in (1, 2):
        raise ValueError(f"reconstruction_power is {config.reconstruction_power}; give 1 (L1) or 2 (L2)")
    weights = {
        name: getattr(config, name)
        for name in ("perceptual_weight", "kl_weight", "semantic_weight", "scale_weight", "latent_noise")
    }
    weights |= {
        "end_to_end.weight": config.end_to_end.weight,
        "end_to_end.flow_weight": config.end_to_end.flow_weight,
        "adversary.weight": config.adversary.weight,
    }
    for name, value in weights.items():
        if value < 0:
            raise ValueError(f"{name} is {value}; give 0, which turns it off, or more")


def _check_encoder(config: AutoencoderConfig, is_kl: bool) -> None:
    """Terms that shape the encoder need one that learns; a frozen one needs weights."""
    if not config.train_encoder and not config.initial:
        raise ValueError(
            "train_encoder is False and initial is empty; give the weights whose decoder to tune"
        )
    if not is_kl and config.teacher_input != "published":
        raise ValueError(
            f"teacher_input is {config.teacher_input!r}; {config.autoencoder} encodes with its teacher, "
            "set it to 'published'"
        )
    asked = {
        "semantic_weight": config.semantic_weight,
        "equivariance.probability": config.equivariance.probability,
        "scale_weight": config.scale_weight,
        "end_to_end.weight": config.end_to_end.weight,
    }
    for name, value in asked.items():
        if value and not (is_kl and config.train_encoder):
            raise ValueError(f"{name} is {value}; {config.autoencoder}'s encoder is frozen, set it to 0")


def _check_perceptual(config: AutoencoderConfig) -> None:
    lookup(PERCEPTUAL, config.perceptual, "perceptual term")
    if (
        config.perceptual == "lpips"
        and config.perceptual_weight
        and not (config.vgg_trunk and config.vgg_heads)
    ):
        raise ValueError(
            "perceptual is 'lpips' and a path is empty; "
            "give vgg_trunk (vgg16-397923af.pth) and vgg_heads (LPIPS' vgg.pth)"
        )


def _check_batch_level(config: AutoencoderConfig, is_kl: bool) -> None:
    """Terms that would mean something else on micro-batches."""
    terms = {
        "semantic_adaptive": config.semantic_weight and config.semantic_adaptive,
        "end_to_end": config.end_to_end.weight,
        "adversary": config.adversary.weight,
        "latent_noise": config.latent_noise and is_kl,
    }
    for name, value in terms.items():
        if value and config.loop.micro_batch_size:
            raise ValueError(f"{name} mixes the examples of a batch; set loop.micro_batch_size to 0")


def _check_shares(config: AutoencoderConfig) -> None:
    shares = {
        "equivariance.probability": config.equivariance.probability,
        "equivariance.downscale_probability": config.equivariance.downscale_probability,
        "end_to_end.class_dropout": config.end_to_end.class_dropout,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; give a share between 0 and 1")


def _check_adversary(config: AdversaryConfig) -> None:
    lookup(DISCRIMINATORS, config.kind, "discriminator")
    if not 0 <= config.discriminator_start <= config.generator_start:
        raise ValueError(
            f"adversary.generator_start is {config.generator_start} and discriminator_start "
            f"{config.discriminator_start}; the discriminator must learn first"
        )
    if config.kernel % 2 == 0 or config.kernel < 1:
        raise ValueError(f"adversary.kernel is {config.kernel}; give an odd number of tokens")
    optim.validate(config.optimiser)


def _check_end_to_end(config: EndToEndConfig) -> None:
    depth = lookup(SIZES, config.backbone, "backbone size").depth
    if not 1 <= config.block <= depth:
        raise ValueError(f"end_to_end.block is {config.block}; {config.backbone} has blocks 1 to {depth}")
    check_times(config.times, "end_to_end.times")
    optim.validate(config.optimiser)
