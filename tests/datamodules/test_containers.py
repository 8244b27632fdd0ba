"""Sound of videos and other containers, through torchcodec where it is installed; else its name is said."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.audio import load_sound
from datamodules.corpora import folder, formats
from datamodules.corpora.inspect import inspect
from datamodules.sound_files import Sound
from tests.datamodules.recordings import DEFAULTS, tone

RATE = 48_000


def is_loadable() -> bool:
    try:
        import torchcodec.encoders  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        return False
    return True


needs_torchcodec = pytest.mark.skipif(not is_loadable(), reason="torchcodec or FFmpeg is not installed")


def encoded(path: Path) -> Path:
    from torchcodec.encoders import AudioEncoder

    AudioEncoder(torch.from_numpy(tone(1.0, RATE).T), sample_rate=RATE).to_file(str(path))
    return path


@pytest.mark.skipif(is_loadable(), reason="torchcodec is installed")
@pytest.mark.parametrize("name", ["a.m4a", "a.MP4", "a.webm"])
def test_without_torchcodec_it_is_named(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A " + bytes(2000))
    (inspection,) = inspect([tmp_path / name], workers=1)
    assert inspection.reason is not None and "pip install 'make-some-noise[containers]'" in inspection.reason


def test_a_broken_file_of_libsndfiles_is_no_container(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"no sound" * 100)
    (inspection,) = inspect([tmp_path / "a.wav"], workers=1)
    assert inspection.reason is not None and "torchcodec" not in inspection.reason


@needs_torchcodec
@pytest.mark.parametrize("name", ["a.m4a", "a.mp4", "a.webm"])
def test_a_part_is_the_part_of_the_whole(tmp_path: Path, name: str):
    path = encoded(tmp_path / name)
    with Sound(path) as sound:
        whole = sound.read(sound.num_samples)
        sound.seek(1000)
        assert np.array_equal(sound.read(500), whole[1000:1500])
    (inspection,) = inspect([path], workers=1)
    assert inspection.reason is None and inspection.num_samples == len(whole)
    assert inspection.seconds == pytest.approx(1.0, abs=0.1), "a coder adds a frame or two"


@needs_torchcodec
def test_a_container_in_a_tar_is_the_same_sound(tmp_path: Path):
    path = encoded(tmp_path / "a.m4a")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(path, "a.m4a")
        member = tarfile.TarInfo("a.txt")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"tone"))
    read = formats.read_webdataset(str(tmp_path / "s.tar"), {})
    folder.prepare_folder(read.root, Path("s.tar"), tmp_path / "out", read.rows, **DEFAULTS)
    from lhotse import CutSet

    (cut,) = CutSet.from_file(tmp_path / "out/cuts.jsonl.gz")
    with Sound(path) as sound:
        assert np.array_equal(load_sound(cut, read.root, RATE, 1).numpy().T, sound.read(sound.num_samples))
