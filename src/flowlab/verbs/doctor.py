"""`flowlab doctor`: versions, devices, memory, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flowlab import __version__

__all__ = ["EXTRAS", "DoctorOptions", "doctor", "remedy"]

CORE = {"torch": "torch", "numpy": "numpy", "PIL": "pillow", "safetensors": "safetensors"}
CORE |= {"einops": "einops", "tyro": "tyro", "tqdm": "tqdm"}

EXTRAS = {  # extra => {name to import: name to install}
    "study": {
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
        "pandas": "pandas",
        "pyarrow": "pyarrow",
        "plotly": "plotly",
        "itables": "itables",
        "tensorboard": "tensorboard",
    },
    "zoo": {
        "diffusers": "diffusers",
        "transformers": "transformers",
        "huggingface_hub": "huggingface_hub",
    },
    "dev": {
        "pytest": "pytest",
        "xdist": "pytest-xdist",
        "pytest_timeout": "pytest-timeout",
        "hypothesis": "hypothesis",
        "scipy": "scipy",
        "ruff": "ruff",
        "pyright": "pyright",
    },
}
BROKEN_BESIDE_CPU_TORCH = "torchvision"


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Where to look."""

    runs: Path = Path("runs")
    """The folder whose write permission is checked."""


def doctor(options: DoctorOptions) -> None:
    """Print the report. Reads only, but for a temporary file in `runs`."""
    print("\n".join(examine(options.runs)))


def examine(runs: Path) -> list[str]:
    """The report, line by line."""
    return [
        f"flowlab   {__version__}",
        f"python    {platform.python_version()} on {platform.platform()}",
        *_packages("core", CORE),
        "",
        *_machine(),
        "",
        *(line for extra, modules in EXTRAS.items() for line in _packages(extra, modules)),
        *_torchvision(),
        "",
        _writable(runs),
    ]


def remedy(module: str) -> str | None:
    """One line on a missing module that an extra or the core would bring; None for any other."""
    for extra, modules in {"": CORE, **EXTRAS}.items():
        if module in modules:
            return f"{modules[module]} is not installed; run: pip install 'flowlab{extra and f'[{extra}]'}'"
    return None


# ---- parts of the report -----------------------------------------------------------------------------------


def _packages(title: str, modules: dict[str, str]) -> list[str]:
    found = {package: _version(package) for module, package in modules.items() if _present(module)}
    missing = [package for package in modules.values() if package not in found]
    have = ", ".join(f"{package} {number}" for package, number in found.items()) or "nothing"
    lines = [f"{title:<9} {have}"]
    if missing:
        extra = "" if title == "core" else f"[{title}]"
        lines.append(f"{'':<9} missing: {', '.join(missing)}; run: pip install 'flowlab{extra}'")
    return lines


def _machine() -> list[str]:
    if not _present("torch"):
        return ["devices   unknown without torch"]
    import torch

    from flowlab.core.devices import default_device, machine, usable_cores

    device = default_device()
    lines = [f"device    {device}: {machine(device)}"]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        lines.append(f"gpu {number}     {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    lines.append(
        f"cores     {usable_cores()} usable of {os.cpu_count()}; torch uses {torch.get_num_threads()} threads"
    )
    return [*lines, f"memory    {_memory()}"]


def _memory() -> str:
    """Free and total memory, the container's limit where it is lower."""
    if sys.platform != "linux":
        return "unknown on this system"
    table = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(table[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    within = f", limited to {int(text) / 2**30:.1f} GiB" if text.isdigit() and int(text) < total else ""
    return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free{within}"


def _torchvision() -> list[str]:
    """A torchvision that does not import breaks other libraries, so its mere presence is worth a line."""
    if not _present(BROKEN_BESIDE_CPU_TORCH):
        return []
    return [
        "note      torchvision is installed; flowlab does not use it, and beside a CPU torch it breaks others"
    ]


def _writable(runs: Path) -> str:
    """Whether runs can be written: in the folder, or in the nearest one above that exists."""
    place = runs.resolve()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as problem:
        return (
            f"runs      {runs} cannot be written ({problem.strerror}); give --out, or change its permissions"
        )
    return f"runs      {runs.resolve()} can be written, {shutil.disk_usage(place).free / 2**30:.1f} GiB free"


def _present(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(no version)"
