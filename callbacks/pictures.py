"""Pictures and their axes, for loggers, the report and the page: spectrogram, raster of codes, use of a codebook,
attention, curves.

A picture is a grid of brightness in one palette, so that its PNG is small. Its axes stand beside it: the report writes
them as text, `with_axes` draws them into what shows an image alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from callbacks import spectrogram_image

Tick = tuple[float, str]  # position from 0 (left, bottom) to 1, and its text
LINES = (235, 150, 95)  # brightness of the first, second and third line, and so on in turn
LINE_SIZE = (640, 160)  # pixels of a picture of lines
BAND, MOST_COLUMNS = 64, 1600  # pixels: height of a raster's only level, width of a raster


class Picture(NamedTuple):
    image: Image.Image
    x: Sequence[Tick]
    y: Sequence[Tick]


def with_axes(picture: Picture, width: int = 640, height: int = 256) -> Image.Image:
    """The picture, scaled to width x height pixels, with its axes to the left and below."""
    left, below, frame, font = 64, 20, 8, ImageFont.load_default()
    whole = Image.new("RGB", (left + width + 3 * frame, height + below + frame), "white")
    whole.paste(picture.image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (left, frame))
    draw = ImageDraw.Draw(whole)
    for position, text in picture.x:
        at = left + position * (width - 1)
        draw.line([(at, frame + height), (at, frame + height + 4)], "black")
        draw.text((at, frame + height + 5), text, "black", font, anchor="ma")
    for position, text in picture.y:
        at = frame + (1 - position) * (height - 1)
        draw.line([(left - 4, at), (left, at)], "black")
        draw.text((left - 6, at), text, "black", font, anchor="rm")
    return whole


def spectrogram(sound: Tensor, rate: int) -> Picture:
    """sound (T), 1 is full scale, at `rate` Hz; axes in seconds and hertz."""
    hertz = [(frequency, text) for frequency, text in ((100, "100 Hz"), (1000, "1 kHz"), (10_000, "10 kHz"))]
    y = [(spectrogram_image.position(one, rate), text) for one, text in hertz if one < rate / 2]
    return Picture(spectrogram_image.image(sound, rate), seconds_axis(len(sound) / rate), y)


def raster(
    codes: Sequence[int], codebook_size: int, levels: Sequence[int], seconds: float, counts: Tensor | None = None
) -> Picture:
    """A mark a code: its time from left to right, its number from the bottom to the top; a band a level, the first above.

    codes (S) of `seconds` s, code s of level levels[s % len(levels)]. counts (Q, K): how often each code is used; with
    them a code's rank in place of its number, the most used one lowest, on a logarithmic axis.
    """
    books, numbers = max(levels) + 1, np.asarray(codes, int)
    of_level = np.resize(np.asarray(levels), len(numbers))
    heights = numbers / max(1, codebook_size - 1)
    if counts is not None:
        heights = np.log1p(_ranks(counts)[of_level, numbers]) / math.log(max(2, codebook_size))
    band = BAND if books == 1 else max(12, 2 * BAND // books)
    longest = max(1, *(int((of_level == level).sum()) for level in range(books)))
    width = min(4 * longest, MOST_COLUMNS)
    grid = np.zeros((books * band, width), np.uint8)
    for level in range(books):
        grid[(level + 1) * band - 1] = 40  # ground line
        chosen = heights[of_level == level]
        edges = np.linspace(0, width, len(chosen) + 1).round().astype(int)
        for share, start, stop in zip(chosen, edges[:-1], edges[1:], strict=True):
            row = (level + 1) * band - 2 - round(share * (band - 3))
            grid[max(0, row - 1) : row + 1, start : max(start + 1, stop - (stop - start > 2))] = LINES[level % 2]
    kind = "code" if counts is None else "rank"
    if books == 1:
        first, last = (0, codebook_size - 1) if counts is None else (1, codebook_size)
        y = [(0.0, f"{kind} {first}"), (1.0, f"{last}")]
    else:
        every = -(-books // 8)
        y = [(1 - (level + 0.5) / books, f"level {level + 1}") for level in range(0, books, every)]
    return Picture(_indexed(grid), seconds_axis(seconds), y)


def codebook_use(counts: Tensor) -> Picture:
    """counts (Q, K) -> how often each code is used, the most used one first; a line a level, which ends at its last used
    code. The vertical axis is logarithmic.
    """
    ordered = counts.double().cpu().sort(descending=True).values
    most = max(2.0, float(ordered.max()))
    lines = [[(float(rank), float(use)) for rank, use in enumerate(level[level > 0], 1)] for level in ordered]
    return _lines(lines, (1, max(2, counts.shape[1])), (1, most), "codes", "uses", log=True)


def attention(weights: Tensor, words: Sequence[str], seconds: float) -> Picture:
    """weights (A, N): of each word of an answer, over the clip's tokens; a row a word, the first above."""
    share = weights.float().cpu() / weights.max().clamp(min=1e-9).cpu()
    rows = len(words)
    y = [(1 - (row + 0.5) / rows, word) for row, word in enumerate(words)]
    return Picture(_indexed((255 * share).round().byte().numpy()), seconds_axis(seconds), y)


def curves(lines: Sequence[Sequence[tuple[float, float]]]) -> Picture:
    """Lines of (step, value), each finite; logarithmic where values are above 0 and span more than a decade."""
    steps, values = zip(*(point for line in lines for point in line), strict=True)
    low, high = min(values), max(values)
    log = low > 0 and high > 10 * low
    if low == high:
        low, high = low - abs(low) / 2 - 1e-9, high + abs(high) / 2 + 1e-9
    return _lines(lines, (min(steps), max(steps)), (low, high), "steps", "", log=log)


def seconds_axis(seconds: float) -> list[Tick]:
    return axis(0, max(seconds, 1e-3), "s")


def axis(low: float, high: float, unit: str = "", log: bool = False) -> list[Tick]:
    """Round numbers from low to high; the last one has the unit."""
    if log:
        decades = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        numbers = [10.0**decade for decade in decades]
        if len(numbers) < 2:
            numbers = [low, *numbers, high]
    else:
        rough = (high - low) / 5
        scale = 10.0 ** math.floor(math.log10(rough))
        step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough * 0.999)
        # 5 s are a tick of a sound of 4.99 s
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 0.02)
        numbers = [step * n for n in range(first, last + 1)]
    span = math.log(high / low) if log else high - low
    positions = [min(1.0, (math.log(one / low) if log else one - low) / span) for one in numbers]
    texts = [_number(one) for one in numbers]
    texts[-1] += f" {unit}" if unit else ""
    return list(zip(positions, texts, strict=True))


def _number(value: float) -> str:
    thousands = abs(value) >= 1000
    return f"{value / 1000 if thousands else value:.3g}{'k' if thousands else ''}"


def _lines(
    lines: Sequence[Sequence[tuple[float, float]]],
    x: tuple[float, float],
    y: tuple[float, float],
    x_unit: str,
    y_unit: str,
    log: bool,
) -> Picture:
    """x, y: ends of the axes; log: of the vertical one."""
    fine, line_width = 3, 5  # drawn large, and made smaller: smooth
    width, height = LINE_SIZE[0] * fine, LINE_SIZE[1] * fine
    grid = Image.new("L", (width, height))
    draw = ImageDraw.Draw(grid)
    ticks = axis(*y, y_unit, log)
    for position, _ in ticks:
        down = (1 - position) * (height - 1)
        draw.line([(0, down), (width, down)], 30, fine)

    def at(step: float, value: float) -> tuple[float, float]:
        share = math.log(value / y[0]) / math.log(y[1] / y[0]) if log else (value - y[0]) / (y[1] - y[0])
        across = (step - x[0]) / max(1e-9, x[1] - x[0])
        return across * (width - 1), line_width + (1 - share) * (height - 1 - 2 * line_width)

    for number, line in reversed(list(enumerate(lines))):
        points = [at(*point) for point in line]
        brightness = LINES[number % len(LINES)]
        if len(points) > 1:
            draw.line(points, brightness, line_width, joint="curve")
        for across, down in points if len(points) < 12 else []:
            draw.ellipse([across - 8, down - 8, across + 8, down + 8], brightness)
    small = grid.resize(LINE_SIZE, Image.Resampling.BOX)
    return Picture(_indexed(np.asarray(small)), axis(*x, x_unit) if x[1] > x[0] else [(0.0, _number(x[0]))], ticks)


def _ranks(counts: Tensor) -> np.ndarray:
    """counts (Q, K) -> rank of each code of each level (Q, K), 0 the most used; of two used as often, the lower code."""
    order = counts.cpu().sort(dim=-1, descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order)).numpy()


def _indexed(grid: np.ndarray) -> Image.Image:
    """Brightness (rows, columns), uint8, in the palette of the spectrograms."""
    image = Image.fromarray(grid, mode="P")
    image.putpalette(spectrogram_image.palette())
    return image


def colour(line: int) -> str:
    """Of a line of `curves`, as HTML writes it."""
    start = 3 * LINES[line % len(LINES)]
    return "#{:02x}{:02x}{:02x}".format(*spectrogram_image.palette()[start : start + 3])
