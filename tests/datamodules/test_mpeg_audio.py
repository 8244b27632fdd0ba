"""An MP3 is read whole, whatever its header declares."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.corpora.inspect import inspect
from datamodules.mpeg_audio import scan
from datamodules.sound_files import Sound

RATE = 22_050


def mp3(path: Path, seconds: float, rate: int = RATE, channels: int = 1, **settings: object) -> bytes:
    noise = 0.1 * np.random.default_rng(0).standard_normal((round(seconds * rate), channels))
    noise[: len(noise) // 2] *= 0.01  # a quiet beginning: few bits
    soundfile.write(path, noise, rate, **settings)
    return path.read_bytes()


def without_header(content: bytes) -> bytes:
    scanned = scan(content)
    assert scanned is not None
    return content[scanned.start :]


def seconds(path: Path) -> float:
    (inspection,) = inspect([path], workers=1)
    assert inspection.reason is None, inspection.reason
    with Sound(path) as sound:
        assert len(sound.read(sound.num_samples)) == inspection.num_samples
    return inspection.seconds


@pytest.mark.parametrize(("rate", "channels"), [(22_050, 1), (44_100, 2), (44_100, 1), (8_000, 1)])
@pytest.mark.parametrize("settings", [{}, {"bitrate_mode": "VARIABLE", "compression_level": 0.5}], ids=["as is", "vbr"])
def test_a_file_without_a_declared_length_is_whole(
    tmp_path: Path, rate: int, channels: int, settings: dict[str, object]
):
    path = tmp_path / "a.mp3"
    path.write_bytes(without_header(mp3(path, 3.0, rate, channels, **settings)))
    assert seconds(path) == pytest.approx(3.0, abs=0.2), "an encoder adds a frame or two"


@pytest.mark.parametrize("tag", [b"", b"TAG" + bytes(125), b"ID3\x04\0\0\0\0\0\x05hello"])
def test_joined_files_are_whole(tmp_path: Path, tag: bytes):
    """Each with its own header, the first of which declares its own part."""
    content = mp3(tmp_path / "a.mp3", 1.5)
    (tmp_path / "b.mp3").write_bytes(content + tag + content)
    assert seconds(tmp_path / "b.mp3") == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize("bit_rates", [(0.0, 0.9), (0.9, 0.0)], ids=["high then low", "low then high"])
def test_two_bit_rates_are_whole(tmp_path: Path, bit_rates: tuple[float, float]):
    parts = [mp3(tmp_path / "a.mp3", 2.0, bitrate_mode="CONSTANT", compression_level=level) for level in bit_rates]
    (tmp_path / "b.mp3").write_bytes(b"".join(map(without_header, parts)))
    assert seconds(tmp_path / "b.mp3") == pytest.approx(4.0, abs=0.2)


def test_two_sample_rates_are_refused_by_name(tmp_path: Path):
    parts = [without_header(mp3(tmp_path / "a.mp3", 1.0, rate)) for rate in (22_050, 44_100)]
    (tmp_path / "b.mp3").write_bytes(b"".join(parts))
    (inspection,) = inspect([tmp_path / "b.mp3"], workers=1)
    assert inspection.reason is not None and "frames of 22050 and 44100 Hz" in inspection.reason


def test_a_file_that_declares_its_length_is_read_as_it_is(tmp_path: Path):
    content = mp3(tmp_path / "a.mp3", 1.0)
    assert seconds(tmp_path / "a.mp3") == 1.0
    (tmp_path / "a.mp3").write_bytes(content + b"TAG" + bytes(125))
    assert seconds(tmp_path / "a.mp3") == 1.0


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (RATE, 2), (44_100, 1)])
def test_a_part_is_that_of_the_whole_at_the_lowest_bit_rates(tmp_path: Path, rate: int, channels: int):
    """Of frames whose bits begin many frames before them; so are blocks, one after another."""
    path = tmp_path / "a.mp3"
    mp3(path, 8.0, rate, channels, bitrate_mode="CONSTANT", compression_level=0.99)
    with Sound(path) as sound:
        whole = sound.read(sound.num_samples)
    with Sound(path) as sound:
        blocks = [sound.read(rate // 2) for _ in range(16)]
    np.testing.assert_allclose(np.concatenate(blocks), whole[: 8 * rate], atol=1e-5)
    for first in (1, rate, 5 * rate + 77):
        with Sound(Path(f"{path}::samples={first}+{rate}")) as part:
            np.testing.assert_allclose(part.read(rate), whole[first : first + rate], atol=1e-5)
