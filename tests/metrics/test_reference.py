"""The reference file: comes back unchanged, refuses another metric's statistics, names damage in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flowlab.metrics.frechet import frechet_distance
from flowlab.metrics.reference import ReferenceFile, check_match, read_adm, read_reference, write_reference
from flowlab.metrics.statistics import statistics


def draw(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(spatial: bool = False) -> ReferenceFile:
    return ReferenceFile(
        statistics=statistics(draw(50, 6)),
        features="digits judge",
        policy="32px as is, rounded uint8",
        dataset="digits reference 0123abcd",
        spatial=statistics(draw(50, 9, 1)) if spatial else None,
    )


@pytest.mark.parametrize("spatial", [False, True])
def test_comes_back_unchanged(tmp_path, spatial):
    path, own = tmp_path / "digits.safetensors", reference(spatial)
    write_reference(path, own)
    again = read_reference(path, features="digits judge", policy=own.policy, dataset=own.dataset)
    assert (again.features, again.policy, again.dataset) == (own.features, own.policy, own.dataset)
    assert again.statistics.n == 50
    torch.testing.assert_close(again.statistics.covariance, own.statistics.covariance, rtol=1e-15, atol=0)
    assert abs(frechet_distance(again.statistics, own.statistics)) < 1e-12
    assert (again.spatial is not None) == spatial
    assert [p.name for p in tmp_path.iterdir()] == ["digits.safetensors"]  # no draft left behind


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"features": "inception"}, "has features 'digits judge', wanted 'inception'"),
        ({"policy": "299px"}, "has policy '32px as is, rounded uint8', wanted '299px'"),
        ({"dataset": "other"}, "has dataset 'digits reference 0123abcd', wanted 'other'"),
    ],
)
def test_mismatch_names_both(tmp_path, wanted, message):
    write_reference(tmp_path / "r.safetensors", reference())
    with pytest.raises(ValueError, match=message) as caught:
        read_reference(tmp_path / "r.safetensors", **wanted)
    assert "\n" not in str(caught.value) and "r.safetensors" in str(caught.value)
    with pytest.raises(ValueError, match=message):
        check_match(reference(), **wanted)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_file_is_one_line(tmp_path, keep):
    path = tmp_path / "r.safetensors"
    write_reference(path, reference())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"r\.safetensors is not a whole safetensors file") as caught:
        read_reference(path)
    assert "\n" not in str(caught.value)


def test_other_faults_are_one_line(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not a file of reference statistics"):
        read_reference(tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no weights at"):
        read_reference(tmp_path / "absent.safetensors")
    good = reference()
    names = {"features": good.features, "policy": good.policy, "dataset": good.dataset}
    tensors = {"mu": torch.full((2,), torch.nan), "sigma": torch.eye(2)}
    save_file(tensors, tmp_path / "nan.safetensors", {"format": "flowlab reference 1", "n": "9", **names})
    with pytest.raises(ValueError, match=r"nan\.safetensors: mean or covariance holds non-finite"):
        read_reference(tmp_path / "nan.safetensors")
    save_file(tensors, tmp_path / "n.safetensors", {"format": "flowlab reference 1", "n": "many", **names})
    with pytest.raises(ValueError, match=r"a count \('many'\)"):
        read_reference(tmp_path / "n.safetensors")


# ---- ADM's npz ---------------------------------------------------------------------------------------------


def write_adm(path, **extra):
    pool = statistics(draw(50, 6))
    np.savez(path, mu=pool.mean.numpy().astype(np.float32), sigma=pool.covariance.numpy(), **extra)
    return pool


def test_reads_adm(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    spatial = statistics(draw(50, 9, 1))
    moments = {"mu_s": spatial.mean.numpy(), "sigma_s": spatial.covariance.numpy()}
    pool = write_adm(tmp_path / "VIRTUAL.npz", arr_0=pictures, **moments)
    read = read_adm(tmp_path / "VIRTUAL.npz", num_images=1281167, features="inception", policy="tf1 299")
    assert read.statistics.n == 1281167 and read.dataset == "VIRTUAL.npz"
    assert frechet_distance(read.statistics, pool) == pytest.approx(0, abs=1e-10)
    assert read.images is not None and read.images.shape == (4, 3, 8, 8)
    assert read.images.dtype == torch.uint8
    np.testing.assert_array_equal(read.images[1].permute(1, 2, 0), pictures[1])
    assert read.spatial is not None and read.spatial.dimension == 9


def test_reads_mu_and_sigma_alone(tmp_path):
    write_adm(tmp_path / "lth.npz")
    read = read_adm(
        tmp_path / "lth.npz", num_images=50, features="inception", policy="tf1 299", dataset="val"
    )
    assert read.spatial is None and read.images is None and read.dataset == "val"


def test_adm_faults_are_one_line(tmp_path):
    def read(name):
        return read_adm(tmp_path / name, num_images=50, features="inception", policy="tf1 299")

    write_adm(tmp_path / "good.npz")
    content = (tmp_path / "good.npz").read_bytes()
    for keep in (0, 10, 200, len(content) - 30):
        (tmp_path / "cut.npz").write_bytes(content[:keep])
        with pytest.raises(ValueError, match=r"cut\.npz is not a whole npz file") as caught:
            read("cut.npz")
        assert "\n" not in str(caught.value)
    damaged = bytearray(content)
    damaged[300] ^= 255
    (tmp_path / "cut.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"cut\.npz"):
        read("cut.npz")
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="has no mu and sigma but arr_0"):
        read("images.npz")
    write_adm(tmp_path / "float.npz", arr_0=np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="arr_0 is float32"):
        read("float.npz")
    write_adm(tmp_path / "half.npz", mu_s=np.zeros(9))
    with pytest.raises(ValueError, match="lacks a mean, a covariance"):
        read("half.npz")
    with pytest.raises(ValueError, match="no reference at"):
        read("absent.npz")
