"""Hours of sound are read window by window."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
HOUR = 3600
# Peak of the resident memory above what it was, in MiB, of all windows of a recording, one batch after another.
READ = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import torch
torch.set_num_threads(1)
from lhotse import Recording
from datamodules.store.overlap import ReadAhead
from datamodules.waveform_batches import WaveformReader, plan_batches
from datamodules.windows import WindowFormat, WindowRule
root = Path(sys.argv[1])
recording = Recording.from_file(root / "long.wav")
recording.sources[0].source = "long.wav"
cut = recording.to_cut()
cut.custom = {"corpus": "mine"}
grid = WindowFormat(44100, 1, 2048, WindowRule(216, 54), 1)
loaded = WaveformReader({"mine": root}, grid, 16)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
samples, power = 0, 0.0
for batch in ReadAhead(loaded[planned] for planned in plan_batches([SimpleNamespace(recordings=[cut])], grid, 16)):
    for group in batch.groups:
        samples += int(group.num_samples.sum())
        power += float(group.waveform.square().sum())
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(samples, power / samples, (after - before) / 1024)
"""


@pytest.mark.slow
def test_an_hour_takes_the_memory_of_a_few_windows(tmp_path: Path):
    """8 kHz mono to 44.1 kHz: 110 MiB as it is read and 606 MiB resampled, were it read whole."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000 * 60) / 8000)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 8000, 1) as file:
        for _ in range(HOUR // 60):
            file.write(tone)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    samples, power, mebibytes = map(float, done.stdout.split())
    assert samples == HOUR * 44100
    np.testing.assert_allclose(power, 0.125, rtol=1e-3)
    assert mebibytes < 250, mebibytes
