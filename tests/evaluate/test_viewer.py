"""The viewer: the pictures chosen, exact pixels in the page, and a browser that turns, zooms and differs."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluate.toys import Pooled
from tests.study.browser import Chromium, find_chromium
from torch import Tensor

from flowlab.data.embedded import digits
from flowlab.evaluate import viewer
from flowlab.evaluate.reconstruction import round_trips

NAMES = ("mine", "</script><b>")


def pictures(seed: int) -> Tensor:
    return torch.randint(
        0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("viewer") / "page.html"
    viewer.write(path, (4, 9, 2), pictures(0), {NAMES[0]: pictures(1), NAMES[1]: pictures(0)})
    return path


def test_the_page_holds_every_pixel_and_asks_for_nothing(page):
    text = page.read_text()
    assert "http://" not in text and "https://" not in text
    assert text.count("</script>") == 2, "a name closed the script that holds it"
    table = json.loads(re.findall(r'<script type="application/json" id="pictures">(.*?)</script>', text)[0])
    assert table["names"] == list(NAMES) and [image["index"] for image in table["images"]] == [4, 9, 2]
    made = base64.b64decode(table["images"][1]["outputs"][0].split(",")[1])
    assert np.array_equal(np.array(Image.open(io.BytesIO(made))), pictures(1)[1].permute(1, 2, 0).numpy())
    assert [image["psnr"][1] for image in table["images"]] == [100.0] * 3


def test_chosen_pictures_are_kept_whatever_the_batch():
    dataset, found = digits("heldout", num_images=11), []
    for batch_size in (3, 11):
        chosen = viewer.Chosen((7, 2))
        for trip in round_trips(Pooled(), dataset, batch_size):
            chosen(trip)
        found.append(chosen)
    pixels = dataset.read(torch.tensor([7, 2])).pixels
    assert pixels is not None and torch.equal(found[0].originals, pixels)
    assert torch.equal(found[0].outputs, found[1].outputs)


def test_spread_covers_a_data_set():
    assert viewer.spread(4, 1000) == (0, 250, 500, 750) and viewer.spread(8, 3) == (0, 1, 2)
    with pytest.raises(ValueError, match="viewer of 0 images"):
        viewer.spread(0, 10)


def test_other_pictures_are_an_error():
    with pytest.raises(ValueError, match=r"mine has pictures \(2, 3, 32, 32\)"):
        viewer.page((0, 1, 2), pictures(0), {"mine": pictures(1)[:2]})


# ---- in a browser ------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(
    find_chromium() is None,
    reason="no chromium on the path; install it (apt-get install chromium) to test the page",
)
CORNER = "[...document.querySelectorAll('canvas')[%d].getContext('2d').getImageData(%d, %d, 1, 1).data]"
SHOWN = "document.documentElement.dataset.shown === '%d'"


@pytest.fixture
def browser(page: Path) -> Iterator[Chromium]:
    with Chromium(width=1200) as chromium:
        chromium.open(page)
        chromium.wait("document.documentElement.dataset.ready === 'yes'")
        yield chromium


def press(browser: Chromium, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key)


@needs_browser
def test_looking_around(browser):
    assert browser.run("document.querySelector('#number').textContent") == "1 of 3: image 4"
    for selector, zoom in (("#closer", "2"), ("#closer", "4"), ("#further", "2"), ("#whole", "1")):
        browser.click(selector)
        assert browser.run("document.documentElement.dataset.zoom") == zoom
    press(browser, "ArrowRight")
    browser.wait(SHOWN % 1)
    for _ in range(2):
        press(browser, "ArrowLeft")
    browser.wait(SHOWN % 2)
    browser.click("#next")
    browser.wait(SHOWN % 0)
    assert browser.run("document.querySelector('#psnr-1').textContent") == "100.00 dB"
    assert browser.faults == [] and browser.foreign_requests == []


@needs_browser
def test_panels_show_the_pixels_and_their_difference(browser):
    """At 16x the view's corner is one pixel of the picture, the same in every panel."""
    for _ in range(4):
        browser.click("#closer")
    y = x = 15  # the view spans pixels 15 and 16 of 32
    original, output = (pictures(seed)[0, :, y, x].long() for seed in (0, 1))
    assert browser.run(CORNER % (0, 3, 3))[:3] == original.tolist()
    assert browser.run(CORNER % (1, 3, 3))[:3] == output.tolist()
    for gain, power in ((4, 2), (1, 0)):
        browser.run(f"document.querySelector('#gain').value = {power}")
        browser.run("document.querySelector('#gain').dispatchEvent(new Event('input'))")
        expected = (128 + gain * (output - original)).clamp(0, 255).tolist()
        assert browser.run(CORNER % (3, 3, 3))[:3] == expected
        assert browser.run(CORNER % (4, 3, 3))[:3] == [128, 128, 128]
    # Reading a panel's pixels draws this warning; the page itself never does (the test above sees none).
    assert [fault for fault in browser.faults if "willReadFrequently" not in fault] == []
