"""Pictures say where and when: a code at its time and number, a frequency at its tick, a line that ends where use ends."""

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks import pictures, spectrogram_image


def marks(picture: pictures.Picture) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of what is bright."""
    return np.nonzero(np.asarray(picture.image) > 60)


def test_a_code_is_a_mark_at_its_time_and_number():
    picture = pictures.raster([0, 7, 3], 8, [0], seconds=3.0)
    rows, columns = marks(picture)
    width, height = picture.image.size
    for third, share in enumerate((0, 1, 3 / 7)):
        chosen = (columns >= third * width // 3) & (columns < (third + 1) * width // 3)
        assert abs((height - 1 - rows[chosen].mean()) / height - share) < 0.06
    assert picture.x[0] == (0.0, "0") and picture.x[-1] == (1.0, "3 s")
    assert [text for _, text in picture.y] == ["code 0", "7"]


def test_with_counts_the_code_that_is_used_most_is_lowest():
    counts = torch.tensor([[1, 5, 9, 0]])
    picture = pictures.raster([2, 1, 0, 3], 4, [0], 1.0, counts)
    rows, columns = marks(picture)
    quarter = picture.image.size[0] // 4
    heights = [rows[columns // quarter == n].mean() for n in range(4)]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == 4


def test_each_level_has_its_band_at_ten_seconds_of_8_levels_and_8196_codes():
    codes = [8195 if n % 8 == 5 else 0 for n in range(8 * 215)]
    picture = pictures.raster(codes, 8196, range(8), 10.0)
    rows, _ = marks(picture)
    band = picture.image.size[1] // 8
    tops = [rows[rows // band == level] % band for level in range(8)]
    assert all((top.max() < band / 2) == (level == 5) for level, top in enumerate(tops))
    assert picture.image.size[0] <= pictures.MOST_COLUMNS and [text for _, text in picture.y][7] == "level 8"
    assert pictures.raster([1, 2, 3], 8, [0, 1, 1], 1.0).image.size[1] == 2 * pictures.BAND, "a level twice in a block"


def test_a_line_of_use_ends_at_the_last_used_code():
    counts = torch.zeros(1, 8196, dtype=torch.long)
    counts[0, ::2] = 7
    counts[0, 8] = 1000
    picture = pictures.codebook_use(counts)
    rows, columns = marks(picture)
    width = picture.image.size[0]
    assert abs(columns.max() / width - 0.5) < 0.01
    assert rows[columns == 0].min() < 6 < rows[columns > 5].min(), "1000 uses are the top, 7 are below"
    assert [text for _, text in picture.y] == ["1", "10", "100", "1k uses"]
    assert pictures.codebook_use(torch.zeros(2, 8, dtype=torch.long)).image.size == pictures.LINE_SIZE


def test_a_row_of_attention_is_a_word():
    weights = torch.tensor([[0.0, 0.4], [0.1, 0.0]])
    picture = pictures.attention(weights, ["a", "bell"], 2.0)
    assert np.asarray(picture.image).tolist() == [[0, 255], [64, 0]]
    assert picture.y == [(0.75, "a"), (0.25, "bell")] and picture.x[-1] == (1.0, "2 s")


def test_curves_are_logarithmic_only_where_they_must_be():
    line = [(0.0, 100.0), (10.0, 1.0)]
    assert [text for _, text in pictures.curves([line]).y] == ["1", "10", "100"]
    assert [text for _, text in pictures.curves([[(0.0, -1.0), (10.0, 1.0)]]).y] == ["-1", "-0.5", "0", "0.5", "1"]
    for flat in ([(3.0, 0.0)], [(0.0, 2.0), (5.0, 2.0)]):
        assert pictures.curves([flat]).image.size == pictures.LINE_SIZE
    rows, columns = marks(pictures.curves([line]))
    assert rows[columns < 5].max() < 20 and rows[columns > 634].min() > 140


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_tone_lies_at_the_tick_of_its_frequency(rate: int):
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(rate) / rate)
    picture = pictures.spectrogram(tone, rate)
    tick = next(position for position, text in picture.y if text == "1 kHz")
    middle = np.asarray(picture.image)[:, picture.image.size[0] // 2]
    assert abs(middle.argmax() - (1 - tick) * spectrogram_image.BANDS) < 2
    whole = pictures.with_axes(picture)
    assert isinstance(whole, Image.Image) and whole.size > (640, 256)
    assert ("10 kHz" in [text for _, text in picture.y]) == (rate == 44100)
