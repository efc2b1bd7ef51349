"""A sheet of pictures with their prompts, references beside edits: the scores to the eye."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from flowlab.core.files import atomic_path
from flowlab.data.transforms import to_pil
from flowlab.evaluate.scenes import RESOLUTION, Scored

__all__ = ["write"]

SIDE = 2 * RESOLUTION  # of a picture on the sheet
GAP, FRAME = 12, 3
FONT_SIZE, LINE = 12, 15
RIGHT, WRONG, INK, PAPER = "#2E9E3F", "#DC2626", "#222222", "#FFFFFF"


def write(path: Path, result: Scored, num_images: int = 32) -> None:
    """The first images of the model as PNG, framed green where everything is right and red elsewhere."""
    num = min(num_images, len(result.questions.prompts))
    font = ImageFont.load_default(FONT_SIZE)
    width, columns = _width(result), 8 if result.questions.references is None else 4
    texts = [_wrapped(text, width, font) for text in result.questions.prompts[:num]]
    height = SIDE + 2 * FRAME + 4 + LINE * max(map(len, texts))
    rows = -(-num // columns)
    sheet = Image.new("RGB", (GAP + columns * (width + GAP), GAP + rows * (height + GAP)), PAPER)
    right = result.judged["model"].right()
    for number, lines in enumerate(texts):
        row, column = divmod(number, columns)
        x, y = GAP + column * (width + GAP), GAP + row * (height + GAP)
        _pictures(sheet, result, number, (x, y), RIGHT if right[number] else WRONG)
        text = "\n".join(lines)
        ImageDraw.Draw(sheet).multiline_text((x, y + SIDE + 2 * FRAME + 4), text, INK, font, spacing=3)
    with atomic_path(path) as draft:
        sheet.save(draft, format="PNG")


def _width(result: Scored) -> int:
    """Of a cell: its pictures, and room for words under a single one."""
    references = result.questions.references
    shown = 1 + (0 if references is None else references.shape[1])
    return max(shown * (SIDE + 2 * FRAME) + (shown - 1) * FRAME, 210)


def _pictures(sheet: Image.Image, result: Scored, number: int, corner: tuple[int, int], frame: str) -> None:
    """References in their order, then the model's image in its frame."""
    x, y = corner
    references = result.questions.references
    for one in () if references is None else references[number]:
        sheet.paste(_enlarged(one), (x + FRAME, y + FRAME))
        x += SIDE + 3 * FRAME
    outer = SIDE + 2 * FRAME
    ImageDraw.Draw(sheet).rectangle((x, y, x + outer - 1, y + outer - 1), fill=frame)
    sheet.paste(_enlarged(result.judged["model"].pixels[number]), (x + FRAME, y + FRAME))


def _enlarged(pixels: Tensor) -> Image.Image:
    return to_pil(pixels).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of at most `width` pixels; JSON, which has no spaces, may break after its commas."""
    text = re.sub(r",(?=\S)", ", ", text)
    for columns in range(width // 4, 8, -1):
        lines = textwrap.wrap(text, columns)
        if max(font.getlength(line) for line in lines) <= width:
            return lines
    return lines
