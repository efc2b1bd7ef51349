"""The embedded encoder: order, hex digits, padding, and features that never move."""

from __future__ import annotations

import json
import unicodedata

import pytest
import torch

from flowlab import text
from flowlab.text.embedded import HEX, POSITION, WORD, EmbeddedText, Token, tokenise

PROMPT = "a red star above a #3366CC ring"


@pytest.fixture
def encoder() -> EmbeddedText:
    return EmbeddedText()


def _tokens(encoder: EmbeddedText, prompt: str) -> torch.Tensor:
    return encoder.encode([prompt]).tokens[0]


def _changed(encoder: EmbeddedText, before: str, after: str) -> list[int]:
    different = (_tokens(encoder, before) != _tokens(encoder, after)).any(1)
    return different.nonzero()[:, 0].tolist()


# ---- tokens ------------------------------------------------------------------------------------------------


def test_a_hex_code_is_seven_tokens_and_each_digit_knows_its_place() -> None:
    digits = [Token(f"#{digit}", place) for place, digit in enumerate("ddc57a")]
    assert list(tokenise("a #DDC57A ring")) == [Token("a"), Token("#"), *digits, Token("ring")]


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("3 rings at 0.5, don't", ["3", "rings", "at", "0.5", ",", "don", "'", "t"]),
        ('{"shape":"ring","x":[1]}', ['{"', "shape", '":"', "ring", '","', "x", '":[', "1", "]}"]),
        ("image_2 2nd", ["image", "_", "2", "2", "nd"]),
        ("#fff #1234567 #abcdefg", ["#", "fff", "#", "1234567", "#", "abcdefg"]),
        ("ÉTOILE 日本 \U0001f600", ["étoile", "日本", "\U0001f600"]),
        (" \n\t", []),
    ],
)
def test_tokens_of(prompt: str, tokens: list[str]) -> None:
    assert [token.text for token in tokenise(prompt)] == tokens


def test_every_character_but_white_space_belongs_to_a_token() -> None:
    characters = "".join(chr(code) for code in range(1, 0x3000))
    joined = "".join(token.text for token in tokenise(characters))
    assert joined == "".join(unicodedata.normalize("NFKC", characters).casefold().split())


def test_pretty_printed_json_equals_compact_json(encoder: EmbeddedText) -> None:
    content = {"objects": [{"shape": "ring", "color": "#DDC57A"}], "background": "dark"}
    compact, pretty = json.dumps(content, separators=(",", ":")), json.dumps(content, indent=2)
    assert torch.equal(_tokens(encoder, compact), _tokens(encoder, pretty))


# ---- features ----------------------------------------------------------------------------------------------


def test_features_are_what_they_were(encoder: EmbeddedText) -> None:
    """Pinned with the identity: a change of either without the other would pass old caches for new ones."""
    assert encoder.identity == "embedded text f546ae1ab841"
    tokens = _tokens(encoder, PROMPT).double()
    weights = torch.arange(1, tokens.numel() + 1).view_as(tokens).double().sqrt().sin()
    assert float((tokens * weights).sum()) == pytest.approx(-18.964953187, abs=1e-4)
    assert "".join("+" if sign > 0 else "-" for sign in tokens[1, :24]) == "+-+---+-++-+-+---++++-++"


def test_shape_and_scale(encoder: EmbeddedText) -> None:
    features = encoder.encode([PROMPT, ""])
    assert features.tokens.shape == (2, encoder.length, encoder.width) == (2, 64, 128)
    assert features.pooled is None
    words = features.tokens[0, :5]
    assert words[:, :WORD].square().mean() == 1
    assert words[:, -POSITION:].square().mean() == pytest.approx(1)


def test_equal_prompts_have_equal_features_whatever_stands_beside_them(encoder: EmbeddedText) -> None:
    alone = EmbeddedText().encode([PROMPT]).tokens[0]
    among = encoder.encode(["", PROMPT, "a blue square", PROMPT]).tokens
    assert torch.equal(among[1], alone)
    assert torch.equal(among[3], alone)


def test_the_caller_may_write_into_the_features(encoder: EmbeddedText) -> None:
    before = _tokens(encoder, PROMPT).clone()
    _tokens(encoder, PROMPT).zero_()
    assert torch.equal(_tokens(encoder, PROMPT), before)


def test_swapped_words_change_their_own_positions_only(encoder: EmbeddedText) -> None:
    assert _changed(encoder, "a red ring and a blue star", "a blue ring and a red star") == [1, 5]
    assert _changed(encoder, "a red ring", "a red ring ring") == [3]


def test_a_word_is_the_same_but_for_its_position(encoder: EmbeddedText) -> None:
    tokens = _tokens(encoder, "ring red ring")
    assert torch.equal(tokens[0, :-POSITION], tokens[2, :-POSITION])
    assert not torch.equal(tokens[0], tokens[2])


def test_case_is_ignored(encoder: EmbeddedText) -> None:
    assert torch.equal(_tokens(encoder, PROMPT), _tokens(encoder, PROMPT.upper()))


def test_the_empty_prompt_is_padding_with_positions(encoder: EmbeddedText) -> None:
    empty, one = _tokens(encoder, ""), _tokens(encoder, "ring")
    assert torch.equal(empty[1:], one[1:])
    assert len(empty.unique(dim=0)) == encoder.length
    assert len(empty[:, :-POSITION].unique(dim=0)) == 1


def test_all_hex_codes_differ_and_digits_can_be_read_by_a_linear_map(encoder: EmbeddedText) -> None:
    codes = torch.randint(0, 1 << 24, (200,), generator=torch.Generator().manual_seed(0))
    tokens = encoder.encode([f"#{code:06x}" for code in codes.tolist()]).tokens  # (200, 64, 128)
    assert len(tokens.flatten(1).unique(dim=0)) == len(codes.unique())
    digits = tokens[:, 1:7, WORD : WORD + HEX].sum(1)  # (200, HEX)
    values = (digits[:, 6:12] / digits[:, :6] + 1) * 7.5  # (200, 6)
    powers = 16 ** torch.arange(5, -1, -1)
    assert torch.equal((values.round().long() * powers).sum(1), codes)


def test_a_digit_looks_like_its_neighbour(encoder: EmbeddedText) -> None:
    part = slice(WORD, WORD + HEX)
    three, four, nine = (_tokens(encoder, f"#{digit}00000")[1, part] for digit in "349")
    assert (three - four).norm() < 0.5 * (three - nine).norm()


def test_a_word_of_hex_letters_is_no_digit(encoder: EmbeddedText) -> None:
    assert _tokens(encoder, "decade")[0, WORD : WORD + HEX].abs().max() == 0
    assert not torch.equal(_tokens(encoder, "# d")[1, :WORD], _tokens(encoder, "#d00000")[1, :WORD])


# ---- cuts --------------------------------------------------------------------------------------------------


def test_a_long_prompt_is_cut_with_one_warning_that_counts(encoder: EmbeddedText) -> None:
    long, longer = "ring " * 70, "a very long list of rings, " * 30
    with pytest.warns(UserWarning) as caught:
        tokens = encoder.encode([long, PROMPT, longer]).tokens
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "prompt 0 ('ring ring" in message and "lost its last 6 of 70 tokens" in message
    assert "prompt 2" in message and "prompt 1" not in message
    assert "\n" not in message
    assert torch.equal(tokens[0], _tokens(encoder, "ring " * 64))
    assert encoder.num_tokens(long) == 70


def test_an_unknown_encoder_lists_the_names() -> None:
    with pytest.raises(ValueError, match="'embeded'.*embedded"):
        text.load("embeded")
