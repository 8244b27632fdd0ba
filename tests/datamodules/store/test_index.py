"""A cache that is opened and not loaded says what was written, wherever it is asked; and what is made of it is
measured once.
"""

import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from lhotse import MonoCut, SupervisionSegment

import conf
from conf.errors import UsageError
from datamodules.corpora.turns import SELF
from datamodules.language import lengths
from datamodules.language.conversation_sources import CutConversations
from datamodules.language.conversations import Mixture, Prompts
from datamodules.latents import LatentDataModule
from datamodules.sampler import ResumableSampler
from datamodules.store.chunks import ChunkWriter, read
from datamodules.store.index import CachedCodes
from datamodules.store.manifest import Manifest
from datamodules.windows import WindowRule
from models.language.vocabulary import Vocabulary
from stages.engine import language_data
from stages.hub.weights import load_language_model
from tests.datamodules.store.planned import planned_in

SPLITS = ("train", "train", "train", "validation", "test")
FRAMES = 4  # of a window


def cuts(count: int) -> list[MonoCut]:
    made = []
    for n in range(count):
        corpus = ("one", "two")[n % 2]
        custom = {"split": SPLITS[n % 5], "corpus": corpus, "source": f"s{n}", "metadata": {}}
        cut = MonoCut(f"{corpus}-{n}", 0, 1.0, 0, custom=custom)
        question = {"task": "question", "kind": "which", "question": f"q{n}?", "answer": f"a{n}"}
        texts = [(f"caption of {n}, é", {"task": "caption"}), (None, question)]
        cut.supervisions = [
            SupervisionSegment(f"{cut.id}-{k}", cut.id, 0, 1.0, text=text, custom=custom)
            for k, (text, custom) in enumerate(texts)
        ]
        made.append(cut)
    return made


def codes(n: int) -> list[int]:
    return list(range(n % 7 + 1))


def write(folder: Path, count: int, kind: str, big: int = 0) -> Path:
    for chunk in planned_in(folder, cuts(count), 8):
        writer = ChunkWriter(folder, chunk)
        for cut in chunk.recordings:
            n = int(cut.id.split("-")[1])
            if kind == "codes":
                writer.add_codes(cut.id, [*codes(n), big])
            else:
                writer.add_array(cut.id, np.full((1 + n % 11, 2), n, np.float32))
        writer.finish()
    return folder


@pytest.mark.parametrize(("big", "dtype"), [(65535, "uint16"), (65536, "int32"), (1 << 20, "int32")])
def test_what_was_written_is_read_anywhere(tmp_path: Path, big: int, dtype: str):
    actual, wanted = read(write(tmp_path, 30, "codes", big)), cuts(30)
    assert np.load(next(tmp_path.glob("*/codes.npy"))).dtype == dtype
    for n in (29, 0, 17, 8, 7):
        assert actual[n].custom == wanted[n].custom | {"codes": [*codes(n), big]}
        assert actual[n].supervisions == wanted[n].supervisions
    assert [cut.id for cut in actual] == [cut.id for cut in wanted]
    assert [cut.id for cut in actual[5:20:3]] == [cut.id for cut in wanted[5:20:3]]
    train = actual.of_split("train")
    assert [cut.id for cut in train] == [cut.id for cut in wanted if cut.custom["split"] == "train"]
    sounds = CachedCodes(train)
    assert sounds["one-2"] == [*codes(2), big] and "two-3" not in sounds and "none" not in sounds
    again = pickle.loads(pickle.dumps(train))
    assert [cut.id for cut in again] == [cut.id for cut in train] and again.digest() == train.digest()
    assert train.digest() != actual.digest()


def test_a_chunk_that_was_cut_off_is_named(tmp_path: Path):
    chunk = sorted(path for path in write(tmp_path, 20, "codes").iterdir() if path.is_dir())[1]
    (chunk / "index.npy").write_bytes((chunk / "index.npy").read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"{chunk.name} is cut off or damaged .* it makes that chunk anew"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.npy", "cuts.json", "plan.npy"])
def test_a_manifest_that_was_cut_off_is_named_and_costs_no_sound(tmp_path: Path, name: str):
    file = write(tmp_path, 20, "codes") / name
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is cut off or damaged .* no sound is encoded for it"):
        read(tmp_path)


@pytest.mark.parametrize(("kind", "name"), [("codes", "codes.npy"), ("latents", "arrays.npy"), ("latents", "std.npy")])
@pytest.mark.parametrize("left", [-6, -1, 128, 20, 0])
def test_an_array_that_was_cut_short_is_named_when_it_is_opened(tmp_path: Path, kind: str, name: str, left: int):
    """By less than a code, to its header, within its header, to nothing."""
    chunk = sorted(path for path in write(tmp_path, 20, kind).iterdir() if path.is_dir())[1]
    if name == "std.npy":
        shutil.copy(chunk / "arrays.npy", chunk / name)
    read(tmp_path)
    (chunk / name).write_bytes((chunk / name).read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{chunk.name} is cut off or damaged .* it makes that chunk anew"):
        read(tmp_path)


def test_a_chunk_without_an_array_or_with_a_shorter_one_is_named(tmp_path: Path):
    one, two = sorted(path for path in write(tmp_path, 20, "codes").iterdir() if path.is_dir())[:2]
    whole = (one / "codes.npy").read_bytes()
    np.save(one / "codes.npy", np.load(one / "codes.npy")[:-1])
    with pytest.raises(ValueError, match=r"damaged \(codes\.npy has \d+ steps of \d+\)"):
        read(tmp_path)
    (one / "codes.npy").write_bytes(whole)
    opened = read(tmp_path)
    kept = (two / "codes.npy").read_bytes()
    (two / "codes.npy").unlink()
    with pytest.raises(ValueError, match=r"neither codes\.npy nor arrays\.npy"):
        read(tmp_path)
    (two / "codes.npy").write_bytes(kept)
    (one / "codes.npy").write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=f"{one.name} is cut off or damaged"):
        [cut.custom["codes"] for cut in opened]


@pytest.mark.parametrize("count", [30, 200])
def test_a_conversation_reads_only_the_sounds_that_it_names(tmp_path: Path, monkeypatch, count: int):
    """Of any cache: its cut, and the one other sound. Reads are counted by the lines of cuts.jsonl."""
    recordings = cuts(count)
    turns = [
        {"role": "user", "content": [{"sound": SELF}, {"sound": "one-2"}]},
        {"role": "assistant", "content": ["b"]},
    ]
    for cut in recordings:
        custom = {"task": "conversation", "turns": turns}
        cut.supervisions.append(SupervisionSegment(f"{cut.id}-c", cut.id, 0, 1.0, custom=custom))
    for chunk in planned_in(tmp_path, recordings, 8):
        writer = ChunkWriter(tmp_path, chunk)
        for cut in chunk.recordings:
            writer.add_codes(cut.id, codes(int(cut.id.split("-")[1])))
        writer.finish()
    lines: list[int] = []
    fields = Manifest.fields
    monkeypatch.setattr(Manifest, "fields", lambda self, row: lines.append(row) or fields(self, row))
    mixture = Mixture(sound_to_text=1, text_to_sound=1, question=1, conversation=1, text=0)
    source = CutConversations(read(tmp_path).of_split("train"), mixture, Prompts(["?"], ["{caption}"], 1))
    (dialogue,) = next(item for item in source[7] if item.kind == "conversation").dialogues
    assert dialogue[0][1][1] == codes(2)
    assert len(lines) <= 3


def data(folder: Path, where: Path | None, counted: list[int], *overrides: str, num_workers: int = 0):
    chosen = ["data.corpora=[one,two]", f"data.num_workers={num_workers}", "mixture.text_to_sound=1", *overrides]
    configuration = conf.compose("openaqa", overrides=chosen).conf
    _, tokenizer = load_language_model("random:tiny", None, "float32")
    words = Vocabulary(tokenizer, 70_000, [0], "ltu", None)

    def encode(talks):
        from datamodules.language.packing import Encoded
        from models.language.vocabulary import Turn

        counted.append(len(talks))
        return [Encoded(*one) for one in words.render_all([[Turn(*turn) for turn in talk] for talk in talks])]

    return language_data.data("test", configuration, read(folder), encode, words.pad_id, words.fingerprint(), "", where)


def test_lengths_are_measured_once(tmp_path: Path):
    """A second start calls the tokenizer for nothing; another mixture, prompt or cache measures again."""
    folder, where, counted = write(tmp_path / "chunks", 40, "codes"), tmp_path / "measured", []
    first = data(folder, where, counted)
    assert sum(counted) == 32 * 3 and len(list(where.iterdir())) == 2
    counted.clear()
    second = data(folder, where, counted)
    assert counted == [] and second.fingerprint() == first.fingerprint()
    batches = [(batch.ids, batch.input_ids.tolist()) for batch in first.train_dataloader()]
    assert batches == [(batch.ids, batch.input_ids.tolist()) for batch in second.train_dataloader()]
    kept = data(folder, None, counted)
    assert batches == [(batch.ids, batch.input_ids.tolist()) for batch in kept.train_dataloader()]
    for changed in ("mixture.question=2", "prompts.sound_to_text=[Say it.]", "corpus_weights.two=2"):
        counted.clear()
        assert data(folder, where, counted, changed).fingerprint() != first.fingerprint() and counted, changed
    counted.clear()
    other = data(write(tmp_path / "other", 41, "codes"), where, counted)
    assert counted and other.fingerprint() != first.fingerprint()
    assert first.train_items.__len__() == 1 and len(first.train_items[0]) == 24 * 3


def test_labels_before_sounds_are_refused_where_no_recording_has_one(tmp_path: Path):
    folder, where = write(tmp_path / "chunks", 5, "codes"), tmp_path / "measured"
    with pytest.raises(UsageError, match=r"labels_before_sound: no training recording of one, two has labels \(column"):
        data(folder, where, [], "prompts.labels_before_sound=true")
    assert not where.exists()


def test_workers_measure_and_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lengths, "BLOCK", 4)  # blocks enough for workers
    folder = write(tmp_path / "chunks", 200, "codes")
    one, two = (data(folder, None, [], num_workers=workers) for workers in (0, 2))
    assert (one.train_items[0].rows == two.train_items[0].rows).all() and len(one.train_items[0].rows) == 360
    pairs = zip(one.train_dataloader(), two.train_dataloader(), strict=True)
    assert all(mine.ids == other.ids and mine.input_ids.equal(other.input_ids) for mine, other in pairs)


def test_a_corpus_comes_as_often_as_it_weighs(tmp_path: Path):
    """In training; validation is as it was. 0.25 of 120: 30 within four standard deviations of 4.7."""
    folder = write(tmp_path / "chunks", 400, "codes")
    for weight, least, most in ((0, 0, 0), (0.25, 11, 49), (1, 120, 120), (2, 240, 240)):
        words = [f"corpus_weights.two={weight}", "mixture.text_to_sound=0", "mixture.sound_to_text=0"]
        module = data(folder, tmp_path / "measured", [], *words)
        epochs = []
        for epoch in range(2):
            sampler = ResumableSampler(module.train_sampler(0, 1))
            sampler.set_epoch(epoch)
            names = [module.train_items[0][int(n)].id for numbers in sampler for n in numbers]
            epochs.append(sorted(names))
            counts = Counter(name.split("-")[0] for name in names)
            assert counts["one"] == 120 and least <= counts["two"] <= most
            assert len(set(names)) == len(names)
        assert epochs[0] == epochs[1]
        assert len(module.validation_items) == 80


def windows(module: LatentDataModule, rank: int = 0, world: int = 1, epoch: int = 0, skip: int = 0) -> list[list[str]]:
    sampler = ResumableSampler(module.train_sampler(rank, world))
    sampler.seek(epoch, skip)
    return [list(module.dataset[numbers].ids) for numbers in sampler]


def test_the_tokenizer_sees_every_window_as_often_as_its_corpus_weighs(tmp_path: Path):
    folder = write(tmp_path, 500, "latents")
    train = [n for n in range(500) if SPLITS[n % 5] == "train"]
    wanted = Counter()
    for n in train:
        wanted.update(f"{('one', 'two')[n % 2]}-{n}-w{k}" for k in range(-(-(1 + n % 11) // FRAMES)))
    for weight in (0.25, 2, 2.25):
        module = LatentDataModule(folder, WindowRule(FRAMES), 16, 0, 0, {"two": weight})
        epoch = windows(module)
        actual = Counter(name for batch in epoch for name in batch)
        assert {name for name in actual if name.startswith("one")} == {
            name for name in wanted if name.startswith("one")
        }
        assert all(actual[name] == 1 for name in actual if name.startswith("one"))
        two = [actual[name] for name in wanted if name.startswith("two")]
        assert set(two) <= {int(weight), int(weight) + (weight % 1 > 0)}
        assert abs(sum(two) / len(two) - weight) < 0.15
        assert windows(module, epoch=0, skip=7) == epoch[7:] and windows(module, epoch=1) != epoch
        ranks = [windows(module, rank, 2) for rank in range(2)]
        assert len(ranks[0]) == len(ranks[1])
        assert Counter(name for rank in ranks for batch in rank for name in batch) == actual
    assert module.fingerprint() != LatentDataModule(folder, WindowRule(FRAMES), 16, 0, 0).fingerprint()
    batch = module.dataset[np.arange(3)]
    assert batch.latents[0, 0, 0] == 0 and batch.num_frames.tolist() == [1, 2, 3]


@pytest.mark.parametrize("world", [1, 2])
def test_a_limited_validation_is_of_all_corpora_and_lengths(tmp_path: Path, world: int):
    """A quarter of the batches of corpora that lie one behind the other in the cache; the same windows every time."""
    recordings = [
        MonoCut(f"{corpus}-{n}", 0, 1.0, 0, custom={"split": ("validation", "train")[n == 0], "corpus": corpus})
        for corpus in ("one", "two", "three")
        for n in range(101)
    ]
    for chunk in planned_in(tmp_path, recordings, 50):
        writer = ChunkWriter(tmp_path, chunk)
        for cut in chunk.recordings:
            writer.add_array(cut.id, np.zeros((1 + int(cut.id.split("-")[1]) % 16, 2), np.float32))
        writer.finish()

    def seen(seed: int) -> list[str]:
        module = LatentDataModule(tmp_path, WindowRule(16, 4), 4, seed, 0)
        names = []
        for rank in range(world):
            batches = module.validation_sampler(rank, world)
            assert batches is not None
            for numbers in list(batches)[: len(batches) // 4]:
                names += module.dataset[numbers].ids
        return names

    names = seen(0)
    assert 60 <= len(names) == len(set(names)) <= 80 and seen(1) == names
    assert min(Counter(name.split("-")[0] for name in names).values()) >= 10
    lengths = [1 + int(name.split("-")[1]) % 16 for name in names]
    assert abs(np.mean(lengths) - 8.5) < 1.5 and max(lengths) > 14 and min(lengths) < 4


def test_weights_of_unknown_corpora_are_refused():
    for stage in ("tokenizer", "caption", "openaqa"):
        for override, message in (
            ("corpus_weights.wavcap=2", r"corpus_weights: data\.corpora has no 'wavcap'\. Did you mean 'wavcaps'"),
            ("corpus_weights.wavcaps=-1", r"wavcaps has the weight -1\.?0?; 0 to 1000 is allowed"),
            ("corpus_weights={wavcaps: 0, openaqa: 0, fma: 0}", "no corpus has a weight above 0"),
        ):
            with pytest.raises(ValueError, match=message):
                conf.compose(stage, overrides=[override])
