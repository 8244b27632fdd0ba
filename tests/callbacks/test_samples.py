"""What TensorBoard shows of a VAE in training: sounds of their own length, and their pictures; originals once."""

from pathlib import Path
from types import SimpleNamespace

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.samples import VaeSamples
from datamodules.crops import CropBatch

RATE = 8000


def test_sounds_and_pictures_are_written(tmp_path: Path):
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE)
    batch = CropBatch(["a", "b", "c"], tone.expand(3, 2, RATE), torch.tensor([RATE, RATE // 2, RATE]))
    module = SimpleNamespace(reconstruct=lambda waveform: waveform / 2)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = L.Trainer(accelerator="cpu", logger=logger, enable_progress_bar=False, enable_checkpointing=False)
    callback = VaeSamples(clips=2, sample_rate=RATE)
    for _ in range(2):
        callback.on_validation_batch_end(trainer, module, None, batch, 0)
    callback.on_validation_batch_end(trainer, module, None, batch, 1)
    logger.experiment.flush()
    events = EventAccumulator(str(tmp_path), {"audio": 0, "images": 0}).Reload()
    assert set(events.Tags()["audio"]) == {"a/vae", "b/vae", "a/original", "b/original"} == set(events.Tags()["images"])
    assert [len(events.Audio(name)) for name in ("a/vae", "a/original")] == [2, 1], "the originals are shown once"
    assert [events.Audio(name)[0].length_frames for name in ("a/vae", "b/vae")] == [RATE, RATE // 2]
    assert events.Images("a/vae")[0].height > 256, "its axis stands below"
