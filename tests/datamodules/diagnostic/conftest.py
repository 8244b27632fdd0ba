"""A sound font of one instrument, for what plays music."""

import struct
from pathlib import Path

import numpy as np
import pytest


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


@pytest.fixture(scope="session")
def sound_font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SoundFont 2.01 file of one looped sawtooth, played by every program and by the percussion bank."""
    period, sample_rate = 100, 22050
    wave = (np.tile(np.linspace(-0.5, 0.5, period), 40) * 32767).astype("<i2")
    wave = np.concatenate([wave, np.zeros(46, "<i2")])
    presets = [(0, program) for program in range(128)] + [(128, 0)]
    phdr = b"".join(struct.pack("<20sHHHIII", b"saw", p, bank, k, 0, 0, 0) for k, (bank, p) in enumerate(presets))
    phdr += struct.pack("<20sHHHIII", b"EOP", 0, 0, len(presets), 0, 0, 0)
    pbag = b"".join(struct.pack("<HH", k, 0) for k in range(len(presets) + 1))
    pgen = struct.pack("<HH", 41, 0) * len(presets) + b"\0" * 4  # 41: instrument
    inst = struct.pack("<20sH", b"saw", 0) + struct.pack("<20sH", b"EOI", 1)
    ibag = struct.pack("<HHHH", 0, 0, 2, 0)
    igen = struct.pack("<HHHH", 54, 1, 53, 0) + b"\0" * 4  # 54: loop, 53: sample
    shdr = struct.pack("<20sIIIIIBbHH", b"saw", 0, 4000, period, 3900, sample_rate, 57, 0, 0, 1)
    shdr += struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    tables = {b"phdr": phdr, b"pbag": pbag, b"pmod": b"\0" * 10, b"pgen": pgen, b"inst": inst, b"ibag": ibag}
    tables |= {b"imod": b"\0" * 10, b"igen": igen, b"shdr": shdr}
    info = chunk(b"ifil", struct.pack("<HH", 2, 1)) + chunk(b"isng", b"EMU8000\0") + chunk(b"INAM", b"test\0\0")
    body = chunk(b"LIST", b"INFO" + info) + chunk(b"LIST", b"sdta" + chunk(b"smpl", wave.tobytes()))
    body += chunk(b"LIST", b"pdta" + b"".join(chunk(name, data) for name, data in tables.items()))
    path = tmp_path_factory.mktemp("font") / "saw.sf2"
    path.write_bytes(chunk(b"RIFF", b"sfbk" + body))
    return path
