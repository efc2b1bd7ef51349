"""Published text models, their tokenizers and identities; the one file here that touches `transformers`.

Loading is strict: a missing tensor is a fault, and so is one left over, unless the caller named its kind.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from flowlab.core.choices import lookup
from flowlab.core.devices import PRECISIONS, default_device

__all__ = [
    "QUANTIZATIONS",
    "find_config",
    "load_image_processor",
    "load_model",
    "load_tokenizer",
    "model_identity",
    "num_parameters",
    "token_ids",
]

QUANTIZATIONS = {"4bit": "NF4", "8bit": "LLM.int8"}
"""Weights of fewer bits by bitsandbytes. Features differ, and so does the identity."""
FOLDERS = ("", "text_encoder")
"""Where a model may lie inside a folder or repository; the second is diffusers' place."""
PROBE = 'A "red" star, 2 #3366CC rings:\n\tnaïve 日本 {"x":0.5} don\'t'
"""Text whose tokens go into an identity: the vocabulary alone does not tell how a tokenizer cuts."""


# ---- loading -----------------------------------------------------------------------------------------------


def find_config(path: str) -> tuple[Any, str]:
    """The configuration of the model in a folder or hub repository, and the sub-folder that holds it."""
    library, problems = _transformers(), []
    for folder in FOLDERS:
        try:
            with _one_line(path):
                return library.AutoConfig.from_pretrained(path, subfolder=folder), folder
        except ValueError as problem:
            problems.append(problem)
    raise problems[0]


def load_model(
    class_name: str,
    path: str,
    *,
    subfolder: str = "",
    config: Any = None,
    renames: dict[str, str] | None = None,
    unused: Callable[[str], bool] = lambda name: False,
    dtype: str = "bfloat16",
    device: torch.device | str | None = None,
    quantization: str | None = None,
) -> Any:
    """A frozen model of a class of `transformers`, from a folder or a hub id.

    `renames`: patterns of the file's names => names of the class. `unused(name)`: whether a tensor that the
    class has no place for may be left out; it is not read. `dtype`: a key of PRECISIONS. `quantization`: None
    or a key of QUANTIZATIONS. Faults are a ValueError of one line.
    """
    library = _transformers()
    target = default_device() if device is None else torch.device(device)
    options = _quantized(library, quantization, dtype, target)
    with _one_line(path), _quiet(library):
        model, info = getattr(library, class_name).from_pretrained(
            path,
            subfolder=subfolder,
            config=config,
            dtype=lookup(PRECISIONS, dtype, "dtype of a text encoder"),
            attn_implementation="sdpa",  # other kernels differ at the padding, which FLUX attends to
            key_mapping=renames,
            output_loading_info=True,
            **options,
        )
    strange = [name for name in info["unexpected_keys"] if not unused(name)]
    for what, names in (("lacks", info["missing_keys"]), ("has unknown", strange)):
        if names:
            raise ValueError(
                f"{path} {what} {min(names)!r} of {class_name}; give a whole folder of this class"
            )
    return (model if options else model.to(target)).eval().requires_grad_(False)


def num_parameters(class_name: str, config: Any) -> int:
    """Of a model of a class of `transformers`, built without memory."""
    with torch.device("meta"):
        return sum(one.numel() for one in getattr(_transformers(), class_name)(config).parameters())


def load_tokenizer(
    path: str,
    *,
    subfolder: str = "",
    padding_side: str = "right",
    marks: tuple[str, ...] = (),
    **options: Any,
) -> Any:
    """A tokenizer that pads on `padding_side` and cuts at the end; one that lacks a mark is unfit."""
    library = _transformers()
    with _one_line(path), _quiet(library):
        tokenizer = library.AutoTokenizer.from_pretrained(path, subfolder=subfolder, **options)
    absent = [mark for mark in marks if mark not in tokenizer.get_vocab()]
    if absent or tokenizer.pad_token is None:
        raise ValueError(
            f"the tokenizer of {path} has no token {(absent or ['for padding'])[0]!r}; give another"
        )
    tokenizer.padding_side, tokenizer.truncation_side = padding_side, "right"
    return tokenizer


def load_image_processor(path: str, *, subfolder: str = "") -> Any:
    """How a model that sees wants its pictures. (Its whole processor would need torchvision.)"""
    library = _transformers()
    with _one_line(path), _quiet(library):
        return library.AutoImageProcessor.from_pretrained(path, subfolder=subfolder)


def token_ids(tokenizer: Any, text: str, *, special: bool) -> list[int]:
    """Ids of a text, neither padded nor cut; `special`: with the marks that the tokenizer adds by itself."""
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


# ---- identity ----------------------------------------------------------------------------------------------


def model_identity(model: Any, tokenizer: Any) -> str:
    """Twelve hex digits of a model's weights and number format, and of its tokenizer.

    64 values stand for each tensor: all 48 GB would take minutes, and training moves every one of them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().flatten()
        sample = values[:: max(1, values.numel() // 64)].cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    digest.update(repr((token_ids(tokenizer, PROBE, special=True), tokenizer.pad_token_id)).encode())
    return digest.hexdigest()[:12]


# ---- the library -------------------------------------------------------------------------------------------


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as problem:
        raise ValueError(
            "this text encoder needs the package transformers; install flowlab with its extra: flowlab[zoo]"
        ) from problem
    return transformers


def _quantized(library: Any, quantization: str | None, dtype: str, device: torch.device) -> dict[str, Any]:
    if quantization is None:
        return {}
    lookup(QUANTIZATIONS, quantization, "quantization")
    for package in ("bitsandbytes", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"quantization={quantization!r} needs the package {package}; install it, or leave it"
            )
    compute = lookup(PRECISIONS, dtype, "dtype of a text encoder")
    settings = (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
        if quantization == "4bit"
        else {"load_in_8bit": True}
    )
    return {"quantization_config": library.BitsAndBytesConfig(**settings), "device_map": {"": device}}


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    """The library's faults for a wrong path, no network, and damaged or misshapen files, as one line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        raise ValueError(
            f"cannot load a text model from {path!r} ({reason});"
            " give a whole folder that save_pretrained wrote, or a hub id"
        ) from problem


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Without the library's report of the tensors left out, as `load_model` judges them."""
    before = library.logging.get_verbosity()
    library.logging.set_verbosity_error()
    try:
        yield
    finally:
        library.logging.set_verbosity(before)
