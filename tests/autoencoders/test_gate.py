"""The gate: every shipped autoencoder passes on its own data, and each silent fault is caught."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from torch import Tensor

from flowlab.autoencoders import gate, load
from flowlab.autoencoders.base import Autoencoder, Moments
from flowlab.autoencoders.gate import GateReport, check
from flowlab.autoencoders.sizes import AUTOENCODERS, build
from flowlab.autoencoders.strips import InStrips
from flowlab.core.pixels import to_float
from flowlab.core.seeds import Streams
from flowlab.data import datasets
from flowlab.data.embedded import digits
from flowlab.metrics.paired import psnr


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    pixels = digits("train", num_images=128).read(torch.arange(128)).pixels
    assert pixels is not None
    return pixels


class Faulty(Autoencoder):
    """A sound autoencoder with a mistake around it, such as an adapter makes."""

    def __init__(
        self,
        model: Autoencoder,
        *,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        latent: Callable[[Tensor], Tensor] = lambda z: z,
        raw: Callable[[Tensor], Tensor] = lambda z: z,
        after: Callable[[Tensor], Tensor] = lambda x: x,
    ):
        super().__init__()
        self.model, self.spec = model, model.spec
        self.before, self.latent, self.raw, self.after = before, latent, raw, after

    def encode(self, pixels: Tensor) -> Moments:
        return self.model.encode(self.before(pixels))

    def to_latent(self, moments: Moments, generators: Streams | None = None) -> Tensor:
        return self.latent(self.model.to_latent(moments, generators))

    def decode(self, latent: Tensor) -> Tensor:
        return self.after(self.model.decode(self.raw(latent)))

    def decode_raw(self, z: Tensor) -> Tensor:
        return self.model.decode_raw(z)

    def fit_normalisation(self, means: Tensor) -> None:
        self.model.fit_normalisation(means)


def judged(model: Autoencoder, pictures: Tensor) -> GateReport:
    return check(model, pictures.split(64))


def caught(model: Autoencoder, pictures: Tensor, words: str) -> None:
    """The gate stops with one line that holds `words`."""
    with pytest.raises(ValueError, match=words) as fault:
        judged(model, pictures)
    message = str(fault.value)
    assert "\n" not in message and "--no-gate passes it" in message and "likely causes: " in message


# ---- what is sound -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_shipped_autoencoder_passes_on_its_data_without_a_warning(name, monkeypatch):
    """At 512 images, where a limit of 0.1 is three of RAE's standard errors; at 2,000 it is six."""
    monkeypatch.setattr(gate, "NUM_ROUND_TRIPS", 64)
    model = load(name)
    data = {"flux2_photos": "photos", "flux2_scenes": "scenes"}.get(name, "digits")
    dataset = datasets.load(data, "train", num_images=512, resolution=model.spec.resolution)
    pictures = dataset.read(torch.arange(512)).pixels
    assert pictures is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = judged(model, pictures)
    assert (report.outcome, report.num_images, report.name) == ("passed", 512, name)
    assert report.psnr is not None and report.psnr > report.floor + 5
    one_scale = name in ("sd", "flux1", "flux1_semantic")
    assert len(report.rows) == (1 if one_scale else load(name).spec.channels)


@pytest.mark.parametrize(
    ("mean", "std", "stops"),
    [
        (0.3, 1.0, False),
        (0.8, 1.0, True),
        (0.0, 0.7, False),
        (0.0, 0.5, True),
        (0.0, 1.4, False),
        (0.0, 1.9, True),
    ],
)
def test_beside_the_limits_it_warns_and_far_beside_it_stops(pictures, mean, std, stops):
    """One channel moved, both ways alike, so that the round trip stays: |mean| 0.5 and std 0.6 to 1.6."""
    model = load("flux2")
    model.normalise.running_mean[3] -= mean * model.normalise.running_var[3].sqrt()  # pyright: ignore
    model.normalise.running_var[3] /= std**2  # pyright: ignore
    if stops:
        caught(model, pictures, "channel 3")
    else:
        with pytest.warns(UserWarning, match="unusual latents"):
            assert judged(model, pictures).outcome == "warned"


@pytest.mark.parametrize(("mean", "std", "outcome"), [(0.746, 1.0, "failed"), (0.0, 1.291, "warned")])
def test_from_64_images_on_the_limits_hold_to_the_letter(pictures, mean, std, outcome):
    """No matter how uncertain the number is: channel 3 of these 64 digits, set to exactly that."""
    model, few = load("flux2"), pictures[:64]
    own = check(model, [few], stop=False).rows[3]
    scale = model.normalise.running_var[3].sqrt()  # pyright: ignore
    model.normalise.running_mean[3] += own.mean * scale - mean / std * own.std * scale  # pyright: ignore
    model.normalise.running_var[3] *= (own.std / std) ** 2  # pyright: ignore
    with pytest.warns(UserWarning, match="unusual latents"):
        report = check(model, [few], stop=False)
    assert report.rows[3].mean == pytest.approx(mean, abs=1e-3)
    assert report.rows[3].std == pytest.approx(std, abs=1e-3)
    assert report.outcome == outcome
    number = f"mean {mean:+8.3f} ±{report.rows[3].mean_error:.3f}"
    assert mean == 0 or number in report.table(), "the table tells how sure it is"


def test_below_64_images_three_standard_errors_are_let_pass():
    row = gate.Row(3, 0.746, 1.0, 0.1, 0.1)
    assert row.within(gate.GROSS, 63) and not row.within(gate.GROSS, 64)
    row = gate.Row(3, 0.0, 1.291, 0.1, 0.08)
    assert row.within(gate.PER_CHANNEL, 63) and not row.within(gate.PER_CHANNEL, 64)


def test_the_numbers_are_those_of_the_whole_set(pictures):
    """Streamed in uneven batches they equal statistics of all latents at once, and the metric's PSNR."""
    model = load("flux2")
    report = check(model, pictures.split(50))
    with torch.no_grad():
        z = model.latents(to_float(pictures)).double()
        output = model.decode(model.latents(to_float(pictures)))
    assert report.psnr == pytest.approx(float(psnr(output, pictures).mean()), abs=1e-3)
    torch.testing.assert_close(
        torch.tensor([row.mean for row in report.rows]), z.mean((0, 2, 3)).float(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        torch.tensor([row.std for row in report.rows]),
        z.std((0, 2, 3), correction=0).float(),
        atol=1e-5,
        rtol=0,
    )


def test_standard_errors_are_those_of_repeated_draws():
    """The spread of a channel's mean and std over many sets of images is what one set predicts."""
    torch.manual_seed(0)
    images = 1.3 * torch.randn(400, 50, 1) + torch.randn(400, 50, 16) + 0.4  # images share a level
    sets = [
        gate._rows(one.mean(1, True).double(), one.square().mean(1, True).double(), True) for one in images
    ]
    rows = [row for (row,) in sets]
    means, stds = torch.tensor([row.mean for row in rows]), torch.tensor([row.std for row in rows])
    assert float(means.std()) == pytest.approx(sum(row.mean_error for row in rows) / 400, rel=0.1)
    assert float(stds.std()) == pytest.approx(sum(row.std_error for row in rows) / 400, rel=0.15)


def test_it_stops_reading_after_enough_images(monkeypatch, pictures):
    monkeypatch.setattr(gate, "NUM_LATENTS", 100)

    def endless():
        while True:
            yield pictures[:64]

    assert check(load("rae"), endless()).num_images == 100


def test_no_empty_batch_is_decoded_once_enough_images_made_the_round_trip(monkeypatch, pictures):
    """Strips cannot be cut from a batch of none, and a class of diffusers may be no different."""
    monkeypatch.setattr(gate, "NUM_ROUND_TRIPS", 64)
    report = check(InStrips(load("flux2")), pictures.split(64))  # pyright: ignore
    first = judged(load("flux2"), pictures[:64])
    assert report.num_images == 128 and report.psnr == pytest.approx(first.psnr, abs=1e-3)


def test_off_reads_nothing():
    def forbidden():
        raise AssertionError("read")
        yield

    report = check(build("flux2"), forbidden(), enabled=False)
    assert (report.outcome, report.psnr, report.rows) == ("off", None, ())


# ---- what is not -------------------------------------------------------------------------------------------


def test_a_missing_scale_is_caught_even_where_the_round_trip_is_whole(pictures):
    model = load("flux2")  # its raw latents have std 1.72
    model.normalise.running_mean.zero_()  # pyright: ignore
    model.normalise.running_var.fill_(1)  # pyright: ignore
    caught(
        model, pictures, r"flux2 fails the gate: PSNR 3[45]\..* channel \d+ has mean .*expected 0 \+- 0\.1"
    )


@pytest.mark.parametrize("scale", [0.18215, 1 / 0.18215], ids=["missing", "doubled"])
def test_a_wrong_single_scale_is_caught(scale, pictures):
    """As where SD's 0.18215 is left out, or used twice."""
    model = Faulty(load("sd"), latent=lambda z: z * scale, raw=lambda z: z / scale)
    caught(model, pictures, "sd fails the gate.* the latent has mean .* and std .*expected 0 .* 0.7 to 1.4")


def test_a_doubled_normalisation_is_caught(pictures):
    model = load("flux2")
    normalise = model.normalise
    twice = Faulty(model, latent=normalise, raw=normalise.inverse)  # pyright: ignore
    caught(twice, pictures, "flux2 fails the gate: PSNR 3[45]")


def test_another_patch_order_is_caught_by_the_statistics_where_both_ways_have_it(pictures):
    """(row, column, c) beside statistics in (c, row, column): the round trip is whole, the scales are not."""
    model = load("flux2")
    for name in ("running_mean", "running_var"):
        statistic = getattr(model.normalise, name)
        statistic.copy_(rearrange(statistic, "(c p) -> (p c)", p=4))
    caught(model, pictures, r"flux2 fails the gate: PSNR 3[45]\.")


def test_another_patch_order_one_way_is_caught_by_the_round_trip(pictures):
    model = Faulty(load("flux1"), latent=lambda z: rearrange(z, "b (c p) h w -> b (p c) h w", p=4))
    caught(model, pictures, r"flux1 fails the gate: PSNR 1\d\.\d+ dB \(floor 22\)")


def test_unit_range_pixels_are_caught_wherever_they_enter(pictures):
    unit = to_float(pictures) / 2 + 0.5
    with pytest.raises(ValueError, match=r"range from 0.* on the grey levels of \[0, 1\]"):
        check(load("flux2"), unit.split(64))
    caught(Faulty(load("flux2"), before=lambda x: x / 2 + 0.5), pictures, "fails the gate: PSNR")
    both = Faulty(load("flux2"), before=lambda x: x / 2 + 0.5, after=lambda x: 2 * x - 1)
    caught(both, pictures, "flux2 fails the gate")


def test_weights_that_are_not_finite_are_caught(pictures):
    model = load("flux2")
    model.encoder.conv_in.weight[0, 0, 0, 0] = float("nan")  # pyright: ignore
    caught(model, pictures, "fails the gate: PSNR nan")


def test_unusual_latents_are_a_warning_with_a_table(pictures):
    model = Faulty(load("flux2"), latent=lambda z: 1.3 * z, raw=lambda z: z / 1.3)
    with pytest.warns(UserWarning, match=r"channel \d+ +mean .* std +1\.[23]") as found:
        assert judged(model, pictures).outcome == "warned"
    assert "and 24 more channels" in str(found[0].message)


def test_few_pictures_convict_nobody_of_their_statistics(pictures):
    model = Faulty(load("flux2"), latent=lambda z: 1.2 * z, raw=lambda z: z / 1.2)
    assert check(model, [pictures[:1]]).outcome == "passed"
    assert check(load("flux2"), [pictures[:4]]).outcome == "passed"
    with pytest.raises(ValueError, match="got no pictures"):
        check(model, [])


def test_every_floor_is_above_what_a_broken_round_trip_reaches(pictures):
    """Mid-grey for every picture, a decoder that learnt nothing, stays below each floor."""
    grey = float(psnr(torch.zeros(128, 3, 32, 32), pictures).mean())
    floors = [*gate.FLOOR_DB.values(), *gate.FAMILY_FLOOR_DB.values(), gate.ANY_FLOOR_DB]
    assert grey < min(floors)
    assert set(AUTOENCODERS) <= set(gate.FLOOR_DB)
