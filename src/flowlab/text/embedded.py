"""The text encoder of the embedded models: a pure function of the prompt, with nothing to download.

A prompt is cut into tokens, and a token becomes a vector; what the words mean is for the generator to learn.
Nothing is averaged over the prompt and nothing is understood: "a red ring" gives three tokens in a row, of
which "red" has the same vector wherever it stands, but for its position. The 128 channels of a token:

    0..87     which token it is: 88 signs, drawn from a hash of its letters
    88..103   of a hex digit only: its place in the code (r1 r2 g1 g2 b1 b2), and its value 0..15
    104..127  where it stands: sines and cosines of its position

A `#` and six hex digits are seven tokens, so that a new colour is made of digits that are not new. White
space separates tokens and is otherwise ignored (pretty-printed JSON equals compact JSON), and so is case.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flowlab.core.seeds import Streams
from flowlab.text.base import TextFeatures, warn_of_cuts

__all__ = ["EmbeddedText", "Token", "tokenise"]

VERSION = 1
"""Of the scheme; a change of any line below that moves a feature raises it, and with it the identity."""
LENGTH = 64
WORD, HEX, POSITION = 88, 16, 24
"""Channels of the three parts."""
WIDTH = WORD + HEX + POSITION
SLOWEST = 64.0
"""Of the position's waves: tokens per radian. The fastest turns by one radian per token."""
PADDING = ""
"""The token behind the end of a prompt. It has a position like any other; no text gives it."""

TOKEN = re.compile(
    r"(?P<hex>#[0-9a-f]{6}(?![^\W_]))"  #             a colour, and not the start of a longer word
    r"|(?P<word>[^\W\d_]+)"  #                        letters
    r"|(?P<number>\d+(?:\.\d+)?)"  #                  3, 0.5
    r"|(?P<hash>\#)"
    r"|(?P<marks>(?:[^\w\s#]|_)+(?:\s+(?:[^\w\s#]|_)+)*)"  # a run of punctuation: '":"' is one token
)


class EmbeddedText:
    """Prompts => features (B, 64, 128) float32 of about unit variance, computed on the CPU, put on `device`.

    The empty prompt is 64 tokens of padding: the null prompt of guidance.
    """

    width = WIDTH
    length = LENGTH

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)

    @property
    def identity(self) -> str:
        """Names the scheme."""
        scheme = f"{VERSION} {LENGTH} {WORD} {HEX} {POSITION} {SLOWEST} {TOKEN.pattern}"
        return f"embedded text {hashlib.sha256(scheme.encode()).hexdigest()[:12]}"

    def encode(self, prompts: Sequence[str]) -> TextFeatures:
        """Features of the prompts; those of more than 64 tokens are cut, with a warning."""
        tokens = [list(tokenise(prompt)) for prompt in prompts]
        warn_of_cuts(prompts, [len(row) for row in tokens], LENGTH)
        features = _vector(Token(PADDING)).repeat(len(tokens), LENGTH, 1)  # (B, L, WIDTH)
        for i, row in enumerate(tokens):
            if row:
                features[i, : len(row)] = torch.stack([_vector(token) for token in row[:LENGTH]])
        features[..., -POSITION:] = _positions()
        return TextFeatures(features.to(self.device))

    def num_tokens(self, prompt: str) -> int:
        """Tokens of a prompt before it is cut."""
        return sum(1 for _ in tokenise(prompt))


# ---- text to tokens ----------------------------------------------------------------------------------------


class Token(NamedTuple):
    """A piece of a prompt."""

    text: str
    """In lower case, without white space; of a hex digit the digit behind a "#", so that it is no word."""
    place: int | None = None
    """0..5, the place of a hex digit in its colour code; None for all others."""


def tokenise(prompt: str) -> Iterator[Token]:
    """The tokens of a prompt, in order; white space gives none, every other character belongs to one."""
    for match in TOKEN.finditer(unicodedata.normalize("NFKC", prompt).casefold()):
        if match["hex"]:
            yield Token("#")
            yield from (Token(f"#{digit}", place) for place, digit in enumerate(match["hex"][1:]))
        else:
            yield Token("".join(match[0].split()))


# ---- tokens to vectors -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1 << 16)
def _vector(token: Token) -> Tensor:
    """(WIDTH,) of one token, its position still zero. Signs, as they are the same on every platform."""
    digest = hashlib.sha256(token.text.encode(errors="surrogatepass")).digest()
    key = torch.tensor([int.from_bytes(digest[:8], "big", signed=True)])
    signs = Streams.for_samples(VERSION, key, purpose="token").integers(2, WORD)[0] * 2 - 1
    return torch.cat([signs.float(), _digit(token), torch.zeros(POSITION)])


def _digit(token: Token) -> Tensor:
    """(HEX,): the place as one of six, the value in the channel of its place, waves of the value.

    A digit is a number, and neighbours look alike. A channel per place lets one linear map weigh the first
    digit of a colour's red sixteen times as much as the second.
    """
    if token.place is None:
        return torch.zeros(HEX)
    value = int(token.text[1:], 16) / 7.5 - 1  # in [-1, 1]
    place = torch.eye(6)[token.place] * math.sqrt(6)
    waves = [math.sqrt(2) * math.cos(math.pi * k * (value + 1) / 2) for k in range(1, HEX - 12 + 1)]
    return torch.cat([place, place * value, torch.tensor(waves)])


@functools.cache
def _positions() -> Tensor:
    """(LENGTH, POSITION): unit-variance waves, from one radian per token down to 1 / SLOWEST."""
    waves = POSITION // 2
    rates = SLOWEST ** (-torch.arange(waves, dtype=torch.float64) / (waves - 1))  # (waves,)
    angles = torch.arange(LENGTH, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1).mul(math.sqrt(2)).float()
