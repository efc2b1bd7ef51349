"""Training distributions: against scipy, against each other, and the published table of the plateau."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from flowlab.core.seeds import Streams
from flowlab.flow.schedules import shift
from flowlab.flow.times import DISTRIBUTIONS, cdf, density, plateau, quantile, sample

NAMES = tuple(DISTRIBUTIONS)
SETTINGS = [  # alpha, mu, sigma; the last three can have two modes (sigma^2 > 2)
    (1.0, 0.0, 1.0),
    (1.78, 0.0, 1.0),
    (6.93, 0.0, 1.0),
    (0.3, 0.5, 0.4),
    (4.63, -1.0, 1.4),
    (1.0, 0.0, 2.0),
    (0.2, 0.0, 1.8),
    (2.0, 1.0, 3.0),
]
every = pytest.mark.parametrize("name", NAMES)
settings_ = pytest.mark.parametrize(("alpha", "mu", "sigma"), SETTINGS)
spread = {"alpha": st.floats(0.05, 20), "mu": st.floats(-3, 3), "sigma": st.floats(0.2, 3)}


@every
@settings_
def test_density_integrates_to_the_cdf(name: str, alpha: float, mu: float, sigma: float) -> None:
    law = {"alpha": alpha, "mu": mu, "sigma": sigma}

    def over_logit(x: float) -> float:  # the substitution t = sigmoid(x) flattens both ends
        t = 1 / (1 + math.exp(-x))
        return float(density(name, t, **law)) * t * (1 - t)

    kink = float(plateau(**law).mode.logit().clamp(-30, 30))
    total = 0.0
    for t in (0.1, 0.5, 0.9, 1.0):
        end = 34.0 if t == 1 else math.log(t / (1 - t))
        parts = [-40.0, *([kink] if kink < end else []), end]
        mass = sum(integrate.quad(over_logit, a, b, limit=200)[0] for a, b in pairwise(parts))
        assert mass == pytest.approx(float(cdf(name, t, **law)), abs=2e-7)
        total = mass
    assert total == pytest.approx(1, abs=2e-7)


@every
@settings_
def test_sampler_follows_the_cdf(name: str, alpha: float, mu: float, sigma: float) -> None:
    draws = sample(name, 20_000, alpha=alpha, mu=mu, sigma=sigma, generator=torch.Generator().manual_seed(0))
    assert draws.shape == (20_000,)
    assert draws.dtype == torch.float64
    assert ((draws >= 0) & (draws <= 1)).all()
    law = {"alpha": alpha, "mu": mu, "sigma": sigma}
    assert stats.kstest(draws.numpy(), lambda t: cdf(name, torch.tensor(t), **law).numpy()).pvalue > 1e-3


@settings(deadline=None)
@given(name=st.sampled_from(NAMES), u=st.floats(1e-6, 1 - 1e-6), **spread)
def test_quantile_inverts_the_cdf(name: str, u: float, alpha: float, mu: float, sigma: float) -> None:
    t = quantile(name, u, alpha=alpha, mu=mu, sigma=sigma)
    again = cdf(name, t, alpha=alpha, mu=mu, sigma=sigma)
    slack = float(density(name, t, alpha=alpha, mu=mu, sigma=sigma)) * 2**-52  # t itself is rounded
    assert abs(float(again) - u) < 1e-9 + 4 * slack


@settings(deadline=None)
@given(t=st.floats(0.001, 0.999), by=st.floats(0.1, 10), **spread)
def test_shifting_a_logit_normal_adds_to_its_mean(
    t: float, by: float, alpha: float, mu: float, sigma: float
) -> None:
    before = cdf("ln", t, alpha=alpha, mu=mu, sigma=sigma)
    after = cdf("ln", shift(by, t), alpha=alpha * by, mu=mu, sigma=sigma)
    same = cdf("ln", shift(by, t), mu=mu + math.log(alpha * by), sigma=sigma)
    assert float(before) == pytest.approx(float(after), abs=1e-10)
    assert float(same) == pytest.approx(float(after), abs=1e-10)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.95])
def test_shifted_draws_are_draws_of_the_shifted_law(alpha: float) -> None:
    for name in ("ts", "ln"):
        plain = sample(name, 1000, generator=torch.Generator().manual_seed(1))
        shifted = sample(name, 1000, alpha=alpha, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(shift(alpha, plain), shifted)


@settings_
def test_logit_normal_equals_scipy(alpha: float, mu: float, sigma: float) -> None:
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    normal = {"loc": mu + math.log(alpha), "scale": sigma}
    logit, slope = t.logit().numpy(), 1 / (t * (1 - t)).numpy()
    law = {"alpha": alpha, "mu": mu, "sigma": sigma}
    np.testing.assert_allclose(cdf("ln", t, **law), stats.norm.cdf(logit, **normal), rtol=1e-10)
    np.testing.assert_allclose(density("ln", t, **law), stats.norm.pdf(logit, **normal) * slope, rtol=1e-10)


# alpha: mode, peak, left mass, Z, mass on the plateau, its height, mean of ts, last of 50 Euler steps
PUBLISHED = {
    1.00: (0.5000, 1.5958, 0.5000, 1.2979, 0.6148, 1.2295, 0.5000, 0.0200),
    1.78: (0.7433, 1.8574, 0.6867, 1.1635, 0.4098, 1.5964, 0.5950, 0.0351),
    2.95: (0.8578, 2.5323, 0.7629, 1.1229, 0.3206, 2.2551, 0.6736, 0.0568),
    4.63: (0.9137, 3.5937, 0.7960, 1.1060, 0.2803, 3.2491, 0.7370, 0.0863),
    6.93: (0.9439, 5.0836, 0.8127, 1.0977, 0.2596, 4.6313, 0.7871, 0.1239),
}


@pytest.mark.parametrize("alpha", PUBLISHED)
def test_plateau_constants_are_the_published_ones(alpha: float) -> None:
    mode, peak, left, total, on_plateau, height, mean_of_ts, last_step = PUBLISHED[alpha]
    flat = plateau(alpha=alpha)
    for ours, published in ((flat.mode, mode), (flat.peak, peak), (flat.left, left), (flat.total, total)):
        assert float(ours) == pytest.approx(published, abs=6e-5)
    assert float(1 - cdf("pln", flat.mode, alpha=alpha)) == pytest.approx(on_plateau, abs=6e-5)
    assert float(density("pln", 0.99, alpha=alpha)) == pytest.approx(height, abs=6e-5)
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    assert float(quantile("ts", u, alpha=alpha).mean()) == pytest.approx(mean_of_ts, abs=6e-5)
    assert shift(alpha, 1 / 50) == pytest.approx(last_step, abs=6e-5)


@settings(deadline=None)
@given(**spread)
def test_plateau_starts_at_the_rightmost_maximum(alpha: float, mu: float, sigma: float) -> None:
    """The slope of ln p over x = logit t, times sigma^2, is 0 there, positive just before and never after."""
    centre = mu + math.log(alpha)

    def slope(x: np.ndarray) -> np.ndarray:
        return centre - x + sigma**2 * np.tanh(x / 2)

    mode = plateau(alpha=alpha, mu=mu, sigma=sigma).mode
    x = float(mode.logit())
    accuracy = 1e-12 / float(mode * (1 - mode)) + 1e-9  # t* is rounded, x = logit t* more so
    assert abs(slope(np.array(x))) < (1 + sigma**2) * accuracy
    assert (slope(np.linspace(x + 1e-3, x + 2 * sigma**2 + 20, 20_001)) < 0).all()
    assert slope(np.array(x - 0.01)) > -1e-4


def test_a_bimodal_law_keeps_its_left_mode() -> None:
    """sigma^2 > 2, symmetric: modes at t* and 1 - t*; the plateau starts at the right one only."""
    flat = plateau(sigma=2.0)
    assert float(flat.mode) > 0.9
    t = torch.tensor([1 - float(flat.mode), 0.5, float(flat.mode)], dtype=torch.float64)
    low, valley, high = density("pln", t, sigma=2.0)
    assert valley < low
    assert float(low) == pytest.approx(float(high))
    torch.testing.assert_close(density("pln", t, sigma=2.0), density("ln", t, sigma=2.0) / flat.total)


@every
def test_mass_moves_towards_noise_with_the_shift(name: str) -> None:
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    means = [float(quantile(name, u, alpha=alpha).mean()) for alpha in (1, 3, 7)]
    assert means == sorted(means)
    assert means[1] > 0.5


@every
@settings_
def test_ends_are_finite_and_outside_is_empty(name: str, alpha: float, mu: float, sigma: float) -> None:
    law = {"alpha": alpha, "mu": mu, "sigma": sigma}
    t = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    p = density(name, t, **law)
    assert p.isfinite().all()
    assert p[0] == p[3] == 0
    assert cdf(name, t, **law).tolist() == [0, 0, 1, 1]
    assert quantile(name, torch.tensor([0.0, 1.0]), **law).tolist() == [0, 1]


wide = {"alpha": st.floats(1e-6, 1e6), "mu": st.floats(-1e4, 1e4), "sigma": st.floats(1e-3, 1e3)}
TIMES = torch.tensor(
    [0.0, 5e-324, 1e-300, 1e-30, 1e-9, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9, 1 - 2**-53, 1.0], dtype=torch.float64
)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(NAMES), **wide)
@example(name="pln", alpha=1.0, mu=0.0, sigma=26.9)
@example(name="pln", alpha=1.0, mu=0.0, sigma=27.0)
@example(name="pln", alpha=1.0, mu=0.0, sigma=1000.0)
@example(name="pln", alpha=1.0, mu=800.0, sigma=1.0)
@example(name="pln", alpha=1.0, mu=-800.0, sigma=1.0)
@example(name="pln", alpha=1.0, mu=-1590.0, sigma=40.0)
@example(name="pln", alpha=1.0, mu=-1e4, sigma=100.0)
@example(name="ln", alpha=1.0, mu=-744.0, sigma=1e-3)
def test_extreme_parameters_give_numbers(name: str, alpha: float, mu: float, sigma: float) -> None:
    law = {"alpha": alpha, "mu": mu, "sigma": sigma}
    p, mass = density(name, TIMES, **law), cdf(name, TIMES, **law)
    assert (p.isfinite() & (p >= 0)).all(), p
    assert mass[0] == 0 and mass[-1] == 1 and (mass.diff() >= -1e-12).all(), mass
    t = quantile(name, TIMES, **law)
    assert t[0] == 0 and t[-1] == 1 and (t.diff() >= -1e-12).all() and (t >= 0).all() and (t <= 1).all(), t
    # A few roundings of t to either side; what is less than 1e-300 sigmoid makes 0.
    before, after = t * (1 - 2**-50), (t * (1 + 2**-50)).clamp(1e-300, 1)
    below, above = cdf(name, before, **law), cdf(name, after, **law)
    assert ((below <= TIMES + 1e-8) & (above + 1e-8 >= TIMES)).all(), "the quantile inverts the cdf"


def test_a_plateau_over_everything_is_uniform() -> None:
    """mu far on the side of data: the mode is t = 0, and what is left of it holds nothing."""
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for law in ({"mu": -800.0}, {"mu": -1e4, "sigma": 50.0}):
        torch.testing.assert_close(density("pln", t, **law), torch.ones_like(t))
        torch.testing.assert_close(cdf("pln", t, **law), t)
        torch.testing.assert_close(quantile("pln", t, **law), t)


def test_a_plateau_too_narrow_for_floats_is_a_logit_normal() -> None:
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    left = plateau(sigma=30.0).left / plateau(sigma=30.0).total
    assert float(left) == pytest.approx(1)
    torch.testing.assert_close(density("pln", t, sigma=30.0), density("ln", t, sigma=30.0))
    torch.testing.assert_close(quantile("pln", t, sigma=30.0), quantile("ln", t, sigma=30.0))


@every
def test_tensors_of_parameters_broadcast(name: str) -> None:
    alpha = torch.tensor([[1.0], [2.95], [6.93]])
    sigma = torch.tensor([0.7, 1.0, 1.9, 2.4])
    t = torch.full((3, 4), 0.9, dtype=torch.float64)
    for function in (density, cdf, quantile):
        together = function(name, t, alpha=alpha, mu=0.2, sigma=sigma)
        assert together.shape == (3, 4)
        assert together.dtype == torch.float64
        for i in range(3):
            for j in range(4):
                alone = function(name, 0.9, alpha=float(alpha[i, 0]), mu=0.2, sigma=float(sigma[j]))
                torch.testing.assert_close(together[i, j], alone, rtol=1e-6, atol=1e-8)


def test_float32_times_are_computed_in_float64() -> None:
    t = torch.tensor([0.1, 0.9])
    assert torch.equal(density("pln", t), density("pln", t.double()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
def test_cuda_agrees(name: str) -> None:
    u = torch.rand(100, dtype=torch.float64)
    for alpha in (2.95, torch.linspace(0.5, 9, 100)):
        there = alpha.cuda() if isinstance(alpha, torch.Tensor) else alpha
        for function in (density, cdf, quantile):
            result = function(name, u.cuda(), alpha=there)
            assert result.is_cuda
            torch.testing.assert_close(result.cpu(), function(name, u, alpha=alpha), rtol=1e-8, atol=1e-10)
    assert sample(name, 5, generator=torch.Generator("cuda")).is_cuda


def test_streams_give_the_same_times_whatever_the_batch() -> None:
    def times(indices: torch.Tensor) -> torch.Tensor:
        u = Streams.for_samples(0, indices, purpose="time").uniform(dtype=torch.float64)
        return quantile("pln", u, alpha=2.95)

    whole = times(torch.arange(64))
    assert torch.equal(whole, torch.cat([times(part) for part in torch.arange(64).split(24)]))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("function", [density, cdf, quantile])
def test_a_bad_shift_or_sigma_is_refused(function, bad: float) -> None:
    with pytest.raises(ValueError, match="shift alpha is"):
        function("ts", 0.5, alpha=bad)
    with pytest.raises(ValueError, match="sigma is"):
        function("ln", 0.5, sigma=torch.tensor([1.0, bad]))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match="choose from: ts, ln, pln"):
        sample("uniform", 3)
    with pytest.raises(ValueError, match="0 or more"):
        sample("ts", -1)
