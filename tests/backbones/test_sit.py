"""SiT: against a plain version, its initialisation, and every option of the spec."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.backbones.plain import heads_attend, linear, normalised, rms, waves
from torch import Tensor

from flowlab.backbones.sit import SiT, SiTSpec
from flowlab.layers.mlp import MLPS
from flowlab.layers.norms import NORMS

BASE: dict[str, Any] = {"channels": 3, "grid": 4, "num_classes": 5, "width": 48, "depth": 3, "heads": 4}
OPTIONS = [
    {},
    {"patch": 2},
    {"norm": "rms"},
    {"mlp": "swiglu"},
    {"mlp": "gelu_exact"},
    {"qk_norm": True},
    {"rope": True},
    {"time_scale": 1000.0},
    {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "rope": True, "mlp_ratio": 3.0},
]
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")


def awake(**options) -> SiT:
    """A model whose zero-initialised layers are random, so that everything shows in the output."""
    torch.manual_seed(0)
    model = SiT(SiTSpec(**{**BASE, **options}))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(6, 3, 4, 4, generator=generator), torch.rand(6, generator=generator)
    return x, t, torch.tensor([0, 1, 2, 3, 4, 5])


def plain(model: SiT, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The same function from the weights alone, without any of the layers."""
    spec, s = model.spec, model.state_dict(keep_vars=True)
    p, side = spec.patch, spec.grid // spec.patch
    tokens = (
        x.view(len(x), spec.channels, side, p, side, p).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    )
    h = linear(s, "patch_in", tokens) + s["position"]
    c = linear(s, "time_in.out_layer", F.silu(linear(s, "time_in.in_layer", waves(t * spec.time_scale))))
    c = F.silu(c + s["label_in.weight"][labels])[:, None]

    def norm(name: str, h: Tensor) -> Tensor:
        return rms(h) * s[f"{name}.scale"] if spec.norm == "rms" else normalised(h)

    def turned(q: Tensor) -> Tensor:
        if not spec.rope:
            return q
        quarter = q.shape[-1] // 4
        place = torch.arange(side**2)
        rates = torch.tensor([10000 ** (-k / quarter) for k in range(quarter)])
        angle = torch.cat([(place // side)[:, None] * rates, (place % side)[:, None] * rates], 1)[
            None, :, None
        ]
        a, b = q[..., 0::2], q[..., 1::2]
        return torch.stack(
            [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1
        ).flatten(-2)

    for block in (f"blocks.{i}" for i in range(spec.depth)):
        m = linear(s, f"{block}.modulation.lin", c).chunk(6, -1)
        inner = norm(f"{block}.norm1", h) * (1 + m[1]) + m[0]
        q, k, v = linear(s, f"{block}.attention.qkv", inner).unflatten(-1, (3, spec.heads, -1)).unbind(2)
        if spec.qk_norm:
            q = rms(q) * s[f"{block}.attention.norm.query_norm.scale"]
            k = rms(k) * s[f"{block}.attention.norm.key_norm.scale"]
        h = h + m[2] * linear(s, f"{block}.attention.proj", heads_attend(turned(q), turned(k), v))
        inner = linear(s, f"{block}.mlp.in_layer", norm(f"{block}.norm2", h) * (1 + m[4]) + m[3])
        if spec.mlp == "swiglu":
            half = inner.shape[-1] // 2
            inner = F.silu(inner[..., :half]) * inner[..., half:]
        else:
            inner = F.gelu(inner, approximate="tanh" if spec.mlp == "gelu" else "none")
        h = h + m[5] * linear(s, f"{block}.mlp.out_layer", inner)
    shift, scale = linear(s, "final.modulation.lin", c).chunk(2, -1)
    out = linear(s, "final.linear", norm("final.norm", h) * (1 + scale) + shift)
    return out.view(len(x), side, side, -1, p, p).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


@every_option
def test_equals_the_plain_definition_and_its_gradients(options: dict) -> None:
    model = awake(**options)
    velocity, expected = model(*inputs()).velocity, plain(model, *inputs())
    torch.testing.assert_close(velocity, expected, rtol=1e-4, atol=1e-5)
    trained = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(velocity.square().mean(), trained)
    reference = torch.autograd.grad(expected.square().mean(), trained)
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@every_option
def test_every_option_takes_a_step(options: dict) -> None:
    torch.manual_seed(0)
    model = SiT(SiTSpec(**{**BASE, **options}))
    x, t, labels = inputs()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = (model(x, t, labels).velocity - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


@every_option
def test_a_fresh_model_answers_zero(options: dict) -> None:
    model = SiT(SiTSpec(**{**BASE, **options}))
    assert (model(*inputs()).velocity == 0).all()


def test_initialisation_is_that_of_dit() -> None:
    torch.manual_seed(0)
    model = SiT(SiTSpec(**{**BASE, "width": 384, "heads": 6, "num_classes": 1000}))
    bound = (6 / (384 + 4 * 384)) ** 0.5  # Xavier-uniform
    weights = dict(model.named_parameters())
    up = weights["blocks.0.mlp.in_layer.weight"]
    assert 0.99 * bound < up.abs().max() <= bound
    for name in ("label_in.weight", "time_in.in_layer.weight", "time_in.out_layer.weight"):
        assert float(weights[name].detach().std()) == pytest.approx(0.02, rel=0.02)
    silent = [name for name in weights if "modulation" in name or name.startswith("final.linear")]
    assert len(silent) == 2 * (3 + 1 + 1)
    assert all((weights[name] == 0).all() for name in silent)
    assert all((p == 0).all() for name, p in weights.items() if name.endswith("bias"))
    assert not weights["position"].requires_grad


def test_keep_returns_the_blocks_asked_for() -> None:
    model = awake()
    out = model(*inputs(), keep=(1, 3))
    assert out.hidden.keys() == {1, 3}
    assert out.hidden[1].shape == (6, 16, 48)
    assert torch.equal(out.velocity, model(*inputs()).velocity)
    assert model(*inputs()).hidden == {}
    first = SiT(SiTSpec(**{**BASE, "depth": 1}))
    first.load_state_dict({k: v for k, v in model.state_dict().items() if k in first.state_dict()})
    torch.testing.assert_close(first(*inputs(), keep=[1]).hidden[1], out.hidden[1])


def test_each_token_may_have_its_own_time() -> None:
    model = awake()
    x, t, labels = inputs()
    shared = model(x, t[:, None].expand(6, 16), labels).velocity
    torch.testing.assert_close(shared, model(x, t, labels).velocity)
    own = t[:, None].repeat(1, 16)
    own[:, 3] = 0.1
    assert not torch.allclose(model(x, own, labels).velocity, shared)


def test_one_time_for_the_batch_is_the_same_as_many() -> None:
    model = awake()
    x, _, labels = inputs()
    once = model(x, torch.tensor(0.3).expand(6), labels).velocity
    torch.testing.assert_close(once, model(x, torch.full((6,), 0.3), labels).velocity)


def test_an_image_does_not_depend_on_its_batch() -> None:
    model = awake()
    x, t, labels = inputs()
    whole = model(x, t, labels).velocity
    parts = [model(x[i : i + 1], t[i : i + 1], labels[i : i + 1]).velocity for i in range(6)]
    torch.testing.assert_close(whole, torch.cat(parts))


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_stays_near_and_answers_in_the_input_precision(autocast: bool) -> None:
    model = awake(rope=True, qk_norm=True)
    x, t, labels = inputs()
    expected = model(x, t, labels).velocity
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        got = (model if autocast else model.bfloat16())(x, t, labels).velocity
    assert got.dtype == torch.float32
    assert (got - expected).norm() < 0.05 * expected.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_option
def test_cuda_agrees(options: dict) -> None:
    model = awake(**options)
    expected = model(*inputs()).velocity
    got = model.cuda()(*(value.cuda() for value in inputs())).velocity
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_every_table_entry_is_an_option() -> None:
    tested = {
        (name, value)
        for options in [BASE | {"norm": "layer", "mlp": "gelu"}, *OPTIONS]
        for name, value in options.items()
    }
    assert all(("norm", name) in tested for name in NORMS)
    assert all(("mlp", name) in tested for name in MLPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "batch"}, "unknown norm 'batch'; choose from: layer, rms"),
        ({"mlp": "relu"}, "unknown MLP 'relu'"),
        ({"patch": 3}, "side 4 cannot be cut into patches of 3"),
        ({"width": 50}, "width 50 is not a multiple of 4"),
        ({"width": 24, "heads": 8, "rope": True}, "width 24 is not a multiple of 32"),
        ({"depth": 0}, "depth of a SiT is 0"),
    ],
)
def test_bad_specs_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SiT(SiTSpec(**{**BASE, **options}))


def test_bad_inputs_are_refused() -> None:
    model = awake()
    x, t, labels = inputs()
    with pytest.raises(ValueError, match=r"this model takes \(batch, 3, 4, 4\)"):
        model(x[:, :2], t, labels)
    with pytest.raises(ValueError, match="this model has 1 to 3"):
        model(x, t, labels, keep=(0,))
