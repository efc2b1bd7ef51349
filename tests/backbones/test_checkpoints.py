"""Backbone files: round trips, official formats, and damage."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.backbones.plain import official_state

from flowlab import backbones
from flowlab.backbones.sit import SiT

X, T, LABELS = torch.randn(2, 4, 4, 4), torch.rand(2), torch.tensor([0, 3])


def model(**options) -> SiT:
    fresh = backbones.build("tiny", channels=4, grid=4, num_classes=3, depth=1, **options)
    for p in fresh.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return fresh


@pytest.mark.parametrize(
    "options", [{}, {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "rope": True, "patch": 2}]
)
def test_our_files_come_back_bit_for_bit(tmp_path: Path, options: dict) -> None:
    saved = model(**options)
    backbones.save(saved, tmp_path / "model.safetensors", {"autoencoder": "flux2"})
    loaded = backbones.load(tmp_path / "model.safetensors")
    assert isinstance(loaded, SiT)
    assert loaded.spec == saved.spec
    assert not loaded.training
    assert not loaded.position.requires_grad
    assert torch.equal(loaded(X, T, LABELS).velocity, saved.eval()(X, T, LABELS).velocity)


def test_half_precision_weights_stay_so(tmp_path: Path) -> None:
    backbones.save(model().bfloat16(), tmp_path / "model.safetensors")
    loaded = backbones.load(tmp_path / "model.safetensors")
    assert all(p.dtype == torch.bfloat16 for p in loaded.parameters())


def test_official_files_of_every_form_are_one_model(tmp_path: Path) -> None:
    state = official_state()
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    training = {
        "model": other,
        "ema": state,
        "opt": {"lr": 1e-4},
        "args": argparse.Namespace(model="SiT-XL/2"),
    }
    torch.save(training, tmp_path / "training.pt")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "wrapped.ckpt")
    x = torch.randn(2, 16, 4, 4)
    names = ("plain.safetensors", "plain.pt", "training.pt", "wrapped.ckpt")
    outputs = [backbones.load(tmp_path / name, heads=4)(x, T, LABELS).velocity for name in names]
    assert outputs[0].abs().max() > 0
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_converted_weights_are_saved_as_ours(tmp_path: Path) -> None:
    torch.save(official_state(), tmp_path / "theirs.pt")
    converted = backbones.load(tmp_path / "theirs.pt", heads=4)
    backbones.save(converted, tmp_path / "ours.safetensors")
    x = torch.randn(2, 16, 4, 4)
    again = backbones.load(tmp_path / "ours.safetensors")
    assert torch.equal(again(x, T, LABELS).velocity, converted(x, T, LABELS).velocity)


class Trap:
    """A class that a file must not be able to build."""


def test_bad_files_get_one_line(tmp_path: Path) -> None:
    good = tmp_path / "model.safetensors"
    backbones.save(model(), good)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-100])
    torch.save(official_state(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:1000])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    tensors = {name: tensor.contiguous() for name, tensor in model().state_dict().items()}
    save_file(tensors, tmp_path / "family.safetensors", {"backbone": '{"family": "unet"}'})
    save_file(tensors, tmp_path / "json.safetensors", {"backbone": "{"})
    save_file(tensors, tmp_path / "spec.safetensors", {"backbone": '{"family": "sit", "spec": {"width": 3}}'})
    messages = {
        "absent.safetensors": "no weights at",
        "absent.pt": "no weights at",
        "cut.safetensors": "not a whole safetensors file",
        "cut.pt": "no whole file of plain tensors",
        "empty.pt": "no whole file of plain tensors",
        "trap.pt": "no whole file of plain tensors",
        "list.pt": "holds no state dict",
        "other.safetensors": "no backbone that flowlab knows",
        "family.safetensors": "unknown backbone family",
        "json.safetensors": "is not JSON",
        "spec.safetensors": "lacks the field 'channels'",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message) as problem:
            backbones.load(tmp_path / name)
        assert name in str(problem.value)
        assert "\n" not in str(problem.value)
    with pytest.raises(ValueError, match="takes no overrides, got: heads"):
        backbones.load(good, heads=4)
