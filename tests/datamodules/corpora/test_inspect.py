"""Bad recordings are found wherever they are cut, and good ones with odd headers are not refused."""

import hashlib
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.corpora.inspect import DURATION_TOLERANCE, LOUD, SILENCE, AudioHeader, declared, inspect
from datamodules.mpeg_audio import SLACK

RATE = 22_050


def noise(samples: int, channels: int = 1) -> np.ndarray:
    """(T, C)"""
    return 0.1 * np.random.default_rng(0).standard_normal((samples, channels)).astype(np.float32)


def reason(path: Path) -> str | None:
    (actual,) = inspect([path], workers=1)
    return actual.reason


def wav(declared_riff: int, declared_data: int, payload: bytes, tail: bytes = b"") -> bytes:
    """A mono 16-bit WAV with the sizes that its header claims."""
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF" + struct.pack("<I", declared_riff) + head + b"data" + struct.pack("<I", declared_data) + payload + tail
    )


SOUND = (noise(4_410) * 32767).astype("<i2").tobytes()
SIZE = len(SOUND)
TAIL = b"LIST" + struct.pack("<I", 10) + b"INFO" + bytes(6)


@pytest.mark.parametrize(
    "content",
    [
        wav(36 + SIZE, SIZE, SOUND),
        wav(0xFFFFFFFF, 0xFFFFFFFF, SOUND),
        wav(0xFFFFFFFF, 0xFFFFFFFF - 36, SOUND),
        wav(0x7FFFFFFF, 0x7FFFFFFF - 36, SOUND),
        wav(99_999, SIZE, SOUND),
        wav(36 + SIZE + len(TAIL), SIZE, SOUND, TAIL),
        wav(36 + SIZE + len(TAIL), SIZE, SOUND, TAIL[:-7]),
    ],
    ids=["plain", "streamed", "streamed by ffmpeg", "2 GiB", "wrong outer size", "tail", "cut tail"],
)
def test_a_wav_whose_sound_is_whole_is_good(tmp_path: Path, content: bytes):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    (actual,) = inspect([path], workers=1)
    assert actual[:8] == (str(path), None, 0.2, len(content), RATE, 4_410, 1, hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf", "w64"])
def test_a_file_cut_anywhere_is_bad(tmp_path: Path, suffix: str):
    """At 300 lengths: no samples at the end, no last page, no last frames. A cut in an MP3's last frame is within DURATION_TOLERANCE."""
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(2 * RATE), RATE)
    whole = path.read_bytes()
    assert reason(path) is None
    lost = []  # seconds, of each cut file that is not refused
    for length in range(0, len(whole) - 1, max(97, len(whole) // 300)):
        path.write_bytes(whole[:length])
        (inspection,) = inspect([path], workers=1)
        if inspection.reason is None:
            lost.append(2 - inspection.seconds)
    assert not lost or (suffix == "mp3" and max(lost) <= DURATION_TOLERANCE)


def test_an_ogg_that_ends_in_a_tag_is_whole(tmp_path: Path):
    path = tmp_path / "a.ogg"
    soundfile.write(path, noise(RATE), RATE)
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert reason(path) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sample", [0, 300_000, 599_999])
def test_one_sample_that_is_no_number_is_found(tmp_path: Path, value: float, sample: int):
    sound = noise(600_000, 2)
    sound[sample, 1] = value
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    assert reason(tmp_path / "a.wav") == "has NaN or infinite samples"


@pytest.mark.parametrize(("peak", "silent"), [(0.5 * SILENCE, True), (2 * SILENCE, False), (-2 * SILENCE, False)])
def test_silence_is_a_peak_below_minus_80_db(tmp_path: Path, peak: float, silent: bool):
    """One sample, in one channel, late in the file."""
    sound = np.zeros((600_000, 2), np.float32)
    sound[590_000, 1] = peak
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    assert (reason(tmp_path / "a.wav") or "").startswith("silent") == silent


@pytest.mark.parametrize(("channels", "name"), [(6, "a.wav"), (5, "a.flac"), (4, "a.aiff"), (3, "a.caf")])
def test_channels_up_to_5_1_are_taken(tmp_path: Path, channels: int, name: str):
    soundfile.write(tmp_path / name, noise(100, channels), RATE)
    assert reason(tmp_path / name) is None


@pytest.mark.parametrize(("channels", "name"), [(7, "a.wav"), (8, "a.flac"), (6, "a.ogg")])
def test_channels_whose_order_is_not_known_are_refused(tmp_path: Path, channels: int, name: str):
    soundfile.write(tmp_path / name, noise(1000, channels), RATE)
    assert reason(tmp_path / name) == (
        f"has {channels} channels; mono, stereo and, in wav, flac or aiff, 3 to 5.1 are taken"
    )


def test_levels_are_those_of_the_samples(tmp_path: Path):
    """Opposite phase is silent in mono; floats of integers that were not scaled have their peak."""
    one = noise(100)
    soundfile.write(tmp_path / "a.wav", np.concatenate([one, -one], 1), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", one * 32768, RATE, subtype="FLOAT")
    opposite, loud = inspect([tmp_path / "a.wav", tmp_path / "b.wav"], workers=1)
    assert (opposite.peak, opposite.mono_peak) == (float(np.abs(one).max()), 0.0)
    assert loud.peak == loud.mono_peak == float(np.abs(one * 32768).max()) > LOUD


def test_a_folder_or_a_link_to_nothing_is_no_recording(tmp_path: Path):
    (tmp_path / "a.wav").symlink_to("gone.wav")
    assert reason(tmp_path / "a.wav") == "missing: it is a link to gone.wav, which is not there"
    assert reason(tmp_path) == "missing: it is a folder or a pipe, and no file"


def test_what_lies_in_place_of_a_sound_is_named(tmp_path: Path):
    (tmp_path / "a.mp3").write_text("<html>404</html>")
    (tmp_path / "a.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert reason(tmp_path / "a.mp3") == "cannot be decoded (Format not recognised.)"
    assert "type `git lfs pull`" in (reason(tmp_path / "a.wav") or "")


def test_processes_find_what_one_finds_in_the_order_given(tmp_path: Path):
    paths = [tmp_path / f"{number}.wav" for number in range(80)]
    for number, path in enumerate(paths):
        if number % 7:
            soundfile.write(path, noise(100 + number), RATE)
        elif number % 2:
            path.touch()
    here = inspect(paths, workers=1)
    assert [item.path for item in here] == [str(path) for path in paths]
    assert {item.reason for item in here} == {None, "missing", "empty file"}
    assert inspect(paths, workers=2) == here


@pytest.mark.parametrize("workers", [0, 4])
def test_a_header_says_what_decoding_finds(tmp_path: Path, workers: int):
    paths = [tmp_path / f"{channels}.{suffix}" for suffix in ("wav", "flac", "ogg", "mp3") for channels in (1, 2)]
    for path in paths:
        soundfile.write(path, noise(RATE, int(path.stem)), RATE)
    (tmp_path / "none.wav").touch()
    actual = [AudioHeader(item.sample_rate, item.num_samples, item.num_channels) for item in inspect(paths, workers=1)]
    assert declared([*paths, tmp_path / "none.wav", tmp_path / "gone.wav"], workers) == [*actual, None, None]


def test_inspecting_needs_no_torch():
    """The processes that inspect start in a moment."""
    code = "import sys, datamodules.corpora.inspect; print([n for n in ('torch', 'lhotse') if n in sys.modules])"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}), ("a.flac", {}), ("a.aiff", {}), ("a.caf", {}), ("a.au", {}), ("a.w64", {}), ("a.ogg", {}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)  # fmt: skip
def test_files_one_after_another_are_refused(tmp_path: Path, name: str, options: dict[str, str]):
    """As `cat a.ogg b.ogg` makes them, and stream captures: libsndfile reads the first and says nothing."""
    first, second = tmp_path / f"1{name}", tmp_path / f"2{name}"
    soundfile.write(first, noise(16000), 16000, **options)
    soundfile.write(second, noise(8000), 16000, **options)
    joined = tmp_path / name
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    size = first.stat().st_size
    assert reason(first) is reason(second) is None
    assert (reason(joined) or "").startswith(f"is several files one after another: the next begins at byte {size}")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(joined, name)
    with tarfile.open(tmp_path / "s.tar") as tar:
        member = tar.getmember(name)
    archived = tmp_path / f"s.tar::bytes={member.offset_data}+{member.size}"
    assert f"the next begins at byte {size}" in (reason(archived) or "")


def test_an_mp3_that_another_follows_closely_is_read_whole(tmp_path: Path):
    """The second is as short as the tags that may stand behind the first, 2 kB."""
    for number, seconds in enumerate((4, 1)):
        soundfile.write(tmp_path / f"{number}.mp3", noise(8000 * seconds), 8000, compression_level=0.99)
    first, second = ((tmp_path / f"{number}.mp3").read_bytes() for number in range(2))
    assert len(second) < SLACK
    (tmp_path / "tagged.mp3").write_bytes(first + b"TAG" + bytes(125))
    (tmp_path / "a.mp3").write_bytes(first + second)
    alone, tagged, both = inspect([tmp_path / name for name in ("0.mp3", "tagged.mp3", "a.mp3")], workers=1)
    assert tagged.seconds == alone.seconds
    assert 1 <= both.seconds - alone.seconds < 1.5, "with the frames that a coder adds"


def test_a_flac_without_its_length_is_named(tmp_path: Path):
    soundfile.write(tmp_path / "a.flac", noise(16000), 16000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)  # samples in the stream: 0, not known
    (tmp_path / "a.flac").write_bytes(data)
    assert "its header does not say how long it is" in (reason(tmp_path / "a.flac") or "")


def declares(path: Path, num_samples: int) -> Path:
    """Writes another length into the header of a mono file: of 16 bits, and of 32 in an AIFC."""
    data, size = bytearray(path.read_bytes()), 2 * num_samples
    match path.suffix:
        case ".flac":
            data[22:26] = num_samples.to_bytes(4, "big")
        case ".au":
            data[8:12] = size.to_bytes(4, "big")
        case ".caf":
            at = data.find(b"data", 64)
            data[at + 4 : at + 12] = (size + 4).to_bytes(8, "big")
        case ".aiff" | ".aifc":
            at = data.find(b"SSND") + 4
            data[at : at + 4] = (size * (2 if path.suffix == ".aifc" else 1) + 8).to_bytes(4, "big")
        case ".wav":
            at = data.find(b"data") + 4
            data[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", ["flac", "wav", "aiff", "aifc", "au", "caf"])
def test_sound_behind_the_declared_length_is_named(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    kind = {"format": "AIFF", "subtype": "FLOAT"} if suffix == "aifc" else {"subtype": "PCM_16"}
    soundfile.write(path, noise(16000), 16000, **kind)
    assert reason(path) is None
    path.write_bytes(path.read_bytes() + bytes([255, 0]) * 100)  # what others append is no sound
    assert reason(path) is None
    declares(path, 8000)
    assert (reason(path) or "").startswith("goes on behind the 0.50 s that its header declares")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(path, path.name)
    with tarfile.open(tmp_path / "s.tar") as tar:
        member = tar.getmember(path.name)
    archived = tmp_path / f"s.tar::bytes={member.offset_data}+{member.size}"
    assert "goes on behind the 0.50 s" in (reason(archived) or "")
    if suffix in ("wav", "aiff", "au", "caf"):
        assert "goes on behind the 0.00 s" in (reason(declares(path, 0)) or "")


def test_a_broken_chunk_behind_the_sound_is_no_sound(tmp_path: Path):
    """As a field recorder leaves it."""
    soundfile.write(tmp_path / "a.wav", noise(16000), 16000, subtype="PCM_24")
    with (tmp_path / "a.wav").open("ab") as file:
        file.write(b"bext" + (602).to_bytes(4, "little") + b"cut off")
    assert reason(tmp_path / "a.wav") is None
