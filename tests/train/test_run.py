"""The run folder: what is refused, and files that are whole or absent."""

from __future__ import annotations

import pytest
import torch

from flowlab.core.files import write_json
from flowlab.presets import PRESETS
from flowlab.train.run import check_folder, write_previews


@pytest.mark.parametrize("found", [{}, [], {"kind": "FlowConfig"}, {"config": {}}])
def test_a_config_of_another_program_is_refused(tmp_path, found):
    write_json(tmp_path / "config.json", found)
    with pytest.raises(ValueError, match="was not written by `flowlab train`; give another --out"):
        check_folder(PRESETS["flow_flux2_digits"](), tmp_path)


def test_previews_are_whole_or_absent(tmp_path, monkeypatch):
    images = {"two words": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)}
    write_previews(images, tmp_path, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["two_words_00000007.png"]
    before = (tmp_path / "two_words_00000007.png").read_bytes()
    monkeypatch.setattr("PIL.Image.Image.save", _dies)
    with pytest.raises(KeyboardInterrupt):
        write_previews(images, tmp_path, 7)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def _dies(image, path, **options):
    path.write_bytes(b"half")
    raise KeyboardInterrupt
