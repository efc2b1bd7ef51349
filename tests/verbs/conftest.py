"""Untrained toys that the verbs work on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from flowlab import autoencoders, backbones
from flowlab.autoencoders.sizes import build as build_autoencoder
from flowlab.features import embedded
from flowlab.features.embedded import Judge, JudgeSpec, Teacher, TeacherSpec


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, a generator in its latent, a judge and a teacher, all untrained; and twelve images."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("toys")
    autoencoders.save(build_autoencoder("flux1"), folder / "ae.safetensors")
    model = backbones.build("tiny", channels=16, grid=4, num_classes=3)
    torch.nn.init.normal_(model.final.linear.weight, std=0.1)
    backbones.save(model, folder / "model.safetensors", {"autoencoder": str(folder / "ae.safetensors")})
    embedded.save(Judge(JudgeSpec()), folder / "judge.safetensors")
    embedded.save(Teacher(TeacherSpec()), folder / "teacher.safetensors")
    for label in range(3):
        (folder / "images" / str(label)).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32), (80 * label, 60 * i, 10)).save(
                folder / "images" / str(label) / f"{i}.png"
            )
    return folder
