"""A clip that a person names is read as the training data was, and what a model cannot hear of it is said."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages.hub import sound_files


@pytest.mark.parametrize(
    ("gains", "channels", "said"),
    [
        ((1, -1), 1, "silent in mono"),
        ((1, -1), 2, ""),
        ((1, 1), 1, ""),
        ((9830, 9830), 1, "far above 1"),
        ((0, 0), 1, ""),
    ],
)
def test_what_a_codec_cannot_hear_is_said(tmp_path: Path, caplog, gains: tuple[float, float], channels: int, said: str):
    wave = np.sin(np.arange(8000) / 7)[:, None] * gains
    soundfile.write(tmp_path / "a.wav", wave, 8000, subtype="FLOAT")
    assert sound_files.read(tmp_path / "a.wav", 8000, channels).shape == (channels, 8000)
    assert [said in record.message for record in caplog.records] == ([True] if said else [])
