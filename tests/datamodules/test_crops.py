"""Crops are a function of seed, epoch and recording; what they hold is what lies there."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, MonoCut, Recording
from lhotse.dataset.sampling import SimpleCutSampler

from datamodules.crops import CropBatches, CropDataModule
from datamodules.store import manifest

RATE, CROP = 8000, 800


@pytest.fixture
def cuts(tmp_path: Path) -> list[MonoCut]:
    """Ramps: a sample's value says where it lies. 0.05 s (shorter than a crop), then 0.5 s and longer."""
    actual = []
    for number in range(9):
        length = 400 if number == 0 else 4000 + 100 * number
        soundfile.write(tmp_path / f"{number}.wav", np.arange(length) / 8192, RATE, subtype="FLOAT")
        recording = Recording.from_file(tmp_path / f"{number}.wav", recording_id=str(number))
        recording.sources[0].source = f"{number}.wav"
        custom = {"corpus": "mine", "split": "validation" if number == 8 else "train"}
        actual.append(MonoCut(f"mine-{number}", 0, recording.duration, 0, recording=recording, custom=custom))
    return actual


def data(cuts: list[MonoCut], root: Path, workers: int = 0, seed: int = 0, channels: int = 1) -> CropDataModule:
    folder = root / "cuts"
    manifest.write(folder, (json.dumps(cut.to_dict()).encode() for cut in cuts), {})
    roots = {"mine": root}
    module = CropDataModule(folder, roots, RATE, channels, CROP, batch_size=4, seed=seed, num_workers=workers)
    module.setup("fit")
    return module


def epoch(module: CropDataModule, number: int) -> dict[str, torch.Tensor]:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(number)
    return {name: sound for batch in loader for name, sound in zip(batch.ids, batch.waveform, strict=True)}


def test_a_crop_is_what_lies_there(cuts: list[MonoCut], tmp_path: Path):
    actual = epoch(data(cuts, tmp_path), 0)
    assert set(actual) == {cut.id for cut in cuts[:8]}
    for name, sound in actual.items():
        if name != "mine-0":
            torch.testing.assert_close(sound[0].diff() * 8192, torch.ones(CROP - 1), atol=1e-3, rtol=0)
    assert len({round(sound[0, 0].item() * 8192) for sound in actual.values()}) > 5, "not all from one place"


def test_a_short_recording_is_followed_by_silence(cuts: list[MonoCut], tmp_path: Path):
    module = data(cuts, tmp_path, channels=2)
    batches = list(module.train_dataloader())
    sound, samples = next(
        (batch.waveform[row], batch.num_samples[row])
        for batch in batches for row, name in enumerate(batch.ids) if name == "mine-0"
    )  # fmt: skip
    assert samples == 400 and sound[:, 1:400].all() and not sound[:, 400:].any()
    assert torch.equal(sound[0], sound[1]), "mono is doubled"


def test_crops_hang_on_seed_epoch_and_recording_alone(cuts: list[MonoCut], tmp_path: Path):
    first = epoch(data(cuts, tmp_path), 1)
    others = {
        "the same": (epoch(data(cuts, tmp_path), 1), True),
        "workers": (epoch(data(cuts, tmp_path, workers=2), 1), True),
        "another epoch": (epoch(data(cuts, tmp_path), 2), False),
        "another seed": (epoch(data(cuts, tmp_path, seed=1), 1), False),
    }
    for name, (other, same) in others.items():
        equal = [torch.equal(first[cut], other[cut]) for cut in first if cut != "mine-0"]
        assert all(equal) if same else not any(equal), name


def test_a_sought_batch_has_the_crops_of_the_undisturbed_run(cuts: list[MonoCut], tmp_path: Path):
    module = data(cuts, tmp_path)
    loader = module.train_dataloader()
    loader.sampler.set_epoch(1)
    whole = list(loader)
    module._position = (1, 1)
    rest = list(module.train_dataloader())
    assert len(rest) == len(whole) - 1
    assert rest[0].ids == whole[1].ids and torch.equal(rest[0].waveform, whole[1].waveform)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [3, 4, 8, 9, 13, 24, 25])
def test_recordings_come_in_the_order_of_lhotses_sampler(count: int, world: int):
    """In training, as earlier versions had it: their checkpoints go on. Lhotse renames a cut that comes twice."""
    cuts = [MonoCut(f"{n}", 0, 1.0, 0, recording=Recording(f"{n}", [], RATE, RATE, 1.0)) for n in range(count)]
    for epoch, shuffle in ((0, True), (3, True)):
        for rank in range(world):
            theirs = SimpleCutSampler(
                CutSet.from_cuts(cuts), max_cuts=4, shuffle=shuffle, seed=5, rank=rank, world_size=world
            )
            ours = CropBatches(cuts, 4, 0.1, 5, rank, world, shuffle)
            theirs.set_epoch(epoch)
            ours.set_epoch(epoch)
            expected = [[cut.id.split("_dup")[0] for cut in batch] for batch in theirs]
            assert [[crop.cut.id for crop in batch] for batch in ours] == expected
            assert len(ours) == len(expected)


def test_a_limited_validation_takes_recordings_of_all_corpora():
    cuts = [
        MonoCut(f"{corpus}-{n}", 0, 1.0, 0, recording=Recording(f"{n}", [], RATE, RATE, 1.0))
        for corpus in ("one", "two", "three")
        for n in range(100)
    ]
    orders = []
    for seed in range(2):
        batches = CropBatches(cuts, 8, 0.1, seed, 0, 1, shuffle=False)
        orders.append([crop.cut.id for batch in list(batches)[: len(batches) // 4] for crop in batch])
        assert all(crop.first == 0 for batch in batches for crop in batch)
    assert orders[0] == orders[1] and {name.split("-")[0] for name in orders[0]} == {"one", "two", "three"}


def test_held_out_crops_are_always_the_same(cuts: list[MonoCut], tmp_path: Path):
    module = data(cuts, tmp_path)
    (batch,) = module.val_dataloader()
    assert batch.ids == ["mine-8"] and batch.waveform[0, 0, 0] == 0
    (again,) = module.validation_batches(3)
    assert torch.equal(again.waveform, batch.waveform)


def test_short_recordings_are_counted(cuts: list[MonoCut], tmp_path: Path):
    assert data(cuts, tmp_path).count_short() == 1


def test_no_training_split_is_refused(cuts: list[MonoCut], tmp_path: Path):
    with pytest.raises(ValueError, match="no recording is in the split 'train'"):
        data(cuts[8:], tmp_path)
