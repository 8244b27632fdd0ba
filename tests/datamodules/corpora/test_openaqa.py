"""OpenAQA: records that lie anywhere are joined on the sounds of prepared corpora; what is not there is counted and
listed.
"""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from datamodules.corpora import openaqa, writer
from datamodules.corpora.inspect import Inspection
from datamodules.errors import DataError
from tests.benchmarks.openaqa import generate
from tests.datamodules.recordings import sound

CORPORA = {
    "as_": ["audioset", "wavcaps/AudioSet_SL"],
    "fsd50k": ["fsd50k"],
    "sound": ["wavcaps/SoundBible"],
    "freesound": ["wavcaps/FreeSound"],
}
DEFAULTS: dict[str, Any] = dict(
    name="openaqa",
    tasks=[],
    datasets=[],
    closed_prefix="keep",
    corpora=CORPORA,
    validation_fraction=0.0,
    contamination="drop",
    on_bad="error",
)


def corpus(
    data: Path, name: str, *clips: str, split: str = "train", subset: str = "", seconds: float = 0.1, sha256: str = ""
) -> None:
    """A prepared corpus of real tones; its clips' origins are their names. sha256: the first one's."""
    root = data.parent / "audio" / name
    with writer.cut_writer(data / name) as add:
        for number, clip in enumerate(clips):
            path = sound(root / subset / f"{clip}.wav", seconds + number / 100, 8000)
            kept = Inspection(
                str(path),
                None,
                0,
                path.stat().st_size,
                8000,
                round(8000 * (seconds + number / 100)),
                1,
                sha256 if sha256 and not number else None,
            )
            custom = {
                "split": split, "corpus": name, "source": f"youtube:{clip}", "origin": f"youtube:{clip}", "clip": clip, "labels": [],
                "metadata": {"subset": subset} if subset else {},
            }  # fmt: skip
            add(
                writer.make_cut(
                    writer.AnnotatedRecording(f"{name}-{subset}{clip}", f"{subset}/{clip}.wav".lstrip("/"), custom, []),
                    kept,
                )
            )
    (data / name / "receipt.json").write_text(json.dumps({"root": str(root.resolve())}))


def record(clip: str, question: str, answer: str, **others: str) -> dict[str, str]:
    return {"instruction": question, "audio_id": f"/elsewhere/audio/{clip}.flac", "output": answer} | others


def made(
    data: Path, records: list[Any], jsonl: bool = False, **changes: Any
) -> tuple[openaqa.PreparedOpenAQA, dict[str, Any]]:
    """What preparing said, and the cuts by their recording's path."""
    file = data.parent / ("r.jsonl" if jsonl else "r.json")
    file.write_text("\n".join(map(json.dumps, records)) if jsonl else json.dumps(records, indent=1))
    done = openaqa.prepare_openaqa(file, data / "openaqa", **DEFAULTS | changes)
    cuts = list(CutSet.from_file(data / "openaqa" / "cuts.jsonl.gz"))
    return done, {cut.recording.sources[0].source: cut for cut in cuts}


def exchanges(cut: Any) -> list[tuple[str, ...]]:
    return [
        ("caption", sup.text)
        if sup.custom["task"] == "caption"
        else (sup.custom["kind"], sup.custom["question"], sup.custom["answer"])
        for sup in cut.supervisions
    ]


@pytest.mark.parametrize("jsonl", [False, True])
def test_all_that_is_asked_about_a_sound_stands_on_its_cut(tmp_path: Path, jsonl: bool):
    data = tmp_path / "data"
    corpus(data, "audioset", "LZq4Neh-oWU", "-xxxxxxxxxx")
    corpus(data, "fsd50k", "17", split="validation")
    closed = "Closed-ended question: What is it?"
    records = [
        record("LZq4Neh-oWU", "Why?", "Because.", dataset="as_20k", task="open-ended question", input=""),
        record("17", closed, "Label(s): Dog; Bark, loud", dataset="fsd50k_tr", task="cla_label"),
        record("-xxxxxxxxxx", "And?", "It is.", dataset="as_2m", input="what was spoken"),
        record(
            "LZq4Neh-oWU", "Describe it.", "Audio caption: Rain: and wind", dataset="as_strong_train", task="caption"
        ),
        record("LZq4Neh-oWU", "Why?", "Because.", dataset="as_20k", task="open-ended question"),
        record("YLZq4Neh-oWU", "When?", "Now.", dataset="as_20k"),
    ]
    done, cuts = made(data, records, jsonl)
    assert done.root == tmp_path / "audio"
    first, second, third = cuts["audioset/LZq4Neh-oWU.wav"], cuts["audioset/-xxxxxxxxxx.wav"], cuts["fsd50k/17.wav"]
    assert exchanges(first) == [
        ("open-ended question", "Why?", "Because."),
        ("caption", "Rain: and wind"),
        ("question", "When?", "Now."),
    ]
    assert first.custom["metadata"] == {"dataset": ["as_20k", "as_strong_train"]}
    assert exchanges(second) == [("question", "And?\nwhat was spoken", "It is.")]
    assert exchanges(third) == [("cla_label", closed, "Label(s): Dog; Bark, loud")]
    assert third.custom["labels"] == ["Dog", "Bark, loud"]
    assert (done.repeated, done.missing, third.custom["split"], first.custom["split"]) == (1, 0, "validation", "train")
    for path, cut in cuts.items():
        assert cut.recording.with_path_prefix(done.root).load_audio().shape == (1, cut.num_samples), path
    _, cuts = made(data, records, closed_prefix="strip", tasks=["cla_label"])
    assert (
        exchanges(cuts["fsd50k/17.wav"]) == [("cla_label", "What is it?", "Label(s): Dog; Bark, loud")]
        and len(cuts) == 1
    )


def test_what_is_missing_is_counted_listed_and_refused(tmp_path: Path):
    data = tmp_path / "data"
    corpus(data, "audioset", "aaaaaaaaaaa")
    records = [
        record("aaaaaaaaaaa", "1?", "a", dataset="as_20k"),
        record("bbbbbbbbbbb", "2?", "b", dataset="as_20k"),
        record("bbbbbbbbbbb", "3?", "b", dataset="as_20k"),
        record("aaaaaaaaaaa", "4?", "c", dataset="nsynth"),
    ]
    with pytest.raises(
        ValueError,
        match=r"2 recordings are in no prepared corpus.*as_20k 2 of 3, nsynth 1 of 1.*missing\.jsonl\n.*on_bad=skip",
    ):
        made(data, records)
    assert [path.name for path in (data / "openaqa").iterdir()] == ["missing.jsonl"]
    done, cuts = made(data, records, on_bad="skip")
    assert done.datasets == {"as_20k": openaqa.DatasetCounts(3, 1, 2, 0), "nsynth": openaqa.DatasetCounts(1, 0, 1, 0)}
    assert len(cuts) == 1
    rows = [json.loads(line) for line in (data / "openaqa" / "missing.jsonl").read_text().splitlines()]
    assert [(row["dataset"], row["records"], row["reason"]) for row in rows] == [
        ("as_20k", 2, "not in audioset, wavcaps/AudioSet_SL"),
        ("nsynth", 1, "no corpora are named for its dataset, as --corpora.DATASET=[audioset]"),
    ]
    done, _ = made(data, records, datasets=["nsynth", "as_20k"], tasks=["question"], on_bad="skip")
    with pytest.raises(ValueError, match=r"no sound of its records is in audioset \(all were filtered out\)"):
        made(data, records, tasks=["caption"], on_bad="skip")


def test_a_sound_in_two_places_counts_as_duplicated_and_the_first_is_taken(tmp_path: Path):
    data = tmp_path / "data"
    corpus(data, "audioset", "aaaaaaaaaaa")
    corpus(data, "wavcaps", "aaaaaaaaaaa", subset="AudioSet_SL")
    done, cuts = made(data, [record("aaaaaaaaaaa", "?", "a", dataset="as_20k")])
    assert done.datasets["as_20k"] == openaqa.DatasetCounts(1, 1, 0, 1) and list(cuts) == ["audioset/aaaaaaaaaaa.wav"]
    done, _ = made(
        data, [record("aaaaaaaaaaa", "?", "a"), record("aaaaaaaaaaa", "?", "a", dataset="as_20k")], on_bad="skip"
    )
    assert done.datasets[""].missing == 1, "no dataset says which of the two it is"


def test_a_number_of_one_subset_is_not_that_of_another(tmp_path: Path):
    data = tmp_path / "data"
    corpus(data, "wavcaps", "1234", subset="FreeSound")
    corpus(data, "fsd50k", "9")
    records = [record("1234", "?", "a", dataset="sound_bible"), record("1234", "!", "b", dataset="freesound_10s")]
    done, cuts = made(data, records, on_bad="skip")
    assert (done.datasets["sound_bible"].missing, done.datasets["freesound_10s"].found) == (1, 1)
    assert exchanges(*cuts.values()) == [("question", "!", "b")]


def test_what_others_test_on_is_not_trained_on(tmp_path: Path):
    data = tmp_path / "data"
    corpus(data, "audioset", "aaaaaaaaaaa", "bbbbbbbbbbb")
    corpus(data, "audiocaps", "bbbbbbbbbbb", split="test")
    records = [record(clip, "?", "a", dataset="as_20k") for clip in ("aaaaaaaaaaa", "bbbbbbbbbbb")]
    done, cuts = made(data, records)
    assert (list(cuts), done.contaminated) == (["aaaaaaaaaaa.wav"], 1), "one corpus: its own root"
    with pytest.raises(ValueError, match=r"youtube:bbbbbbbbbbb, in the test split of audiocaps"):
        made(data, records, contamination="error")
    done, cuts = made(data, records, contamination="keep")
    assert len(cuts) == 2 and done.contaminated == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with b''"),
        ("instruction,output", "begins with b'i'"),
        ('[{"instruction": "a", "output": "b", "audio_id": "c"}, {"instr', "no JSON after record 1: "),
        (
            '[{"instruction": "a", "output": "b"}]',
            "record 1: 'audio_id' is a text that is not empty, here None; the record has instruction, output",
        ),
        ('[{"instruction": 3, "output": "b", "audio_id": "c"}]', "record 1: 'instruction' is a text"),
        (
            '[{"instruction": "a", "output": "b", "audio_id": "c", "task": ["x"]}]',
            r"record 1: 'task' is a text, here \['x'\]",
        ),
        ('{"instruction": "a", "output": "b", "audio_id": "c"}\n["a"]', "record 2: an object"),
    ],
)
def test_what_is_no_record_is_named(tmp_path: Path, text: str, message: str):
    corpus(tmp_path / "data", "audioset", "c")
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        openaqa.prepare_openaqa(tmp_path / "r.json", tmp_path / "data/openaqa", **DEFAULTS)
    assert not list((tmp_path / "data/openaqa").iterdir())


def test_without_prepared_corpora_it_says_which_are_needed(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds none of audioset, wavcaps/AudioSet_SL, fsd50k.*stage prepare --list"):
        made(tmp_path / "data", [record("a", "?", "b")])
    with pytest.raises(ValueError, match=r"gone\.json: no such file"):
        openaqa.prepare_openaqa(tmp_path / "gone.json", tmp_path / "data/openaqa", **DEFAULTS)


def test_thousands_of_shuffled_records_lose_none(tmp_path: Path):
    """Against a plain dictionary."""
    data = tmp_path / "data"
    data.mkdir()
    from tests.benchmarks.openaqa import corpus as many

    many(data / "audioset", 300)
    records = list(generate(4000, 300, 0.1))
    expected: dict[str, int] = {}
    for item in records:
        expected[Path(item["audio_id"]).stem] = expected.get(Path(item["audio_id"]).stem, 0) + 1
    done, cuts = made(data, records, on_bad="skip")
    assert {path.removesuffix(".flac"): len(cut.supervisions) for path, cut in cuts.items()} == {
        clip: count for clip, count in expected.items() if clip[0] == "_"
    }
    given = done.datasets["as_2m"]
    assert given.missing == sum(count for clip, count in expected.items() if clip[0] == "-") and given.records == 4000
    assert done.missing == sum(clip[0] == "-" for clip in expected)


@pytest.mark.parametrize(
    ("clip", "written"),
    [
        ("Distorted AM Radio noise", "Distorted_AM_Radio_noise"),
        (" leading blank", "leading_blank"),
        (" leading blank", "_leading_blank"),
        ("Rain (loud), then thunder", "Rain_loud_then_thunder"),
        ("Rain (loud)", "Rain (loud)"),
    ],
)
def test_a_name_with_blanks_is_found_as_it_is_copied(tmp_path: Path, clip: str, written: str):
    """OpenAQA writes Clotho's with underscores."""
    data = tmp_path / "data"
    corpus(data, "clotho", clip, "another bell")
    done, cuts = made(data, [record(written, "What?", "A bell.", dataset="clotho")], corpora={"clotho": ["clotho"]})
    assert done.missing == 0 and list(cuts) == [f"{clip}.wav"]


def test_ids_of_videos_are_never_likened(tmp_path: Path):
    """ab-cd_fgh12 and ab_cd_fgh12 are two videos; a recording with a blank in its name is neither."""
    data = tmp_path / "data"
    corpus(data, "audioset", "ab-cd_fgh12", "ab cd fgh12")
    with pytest.raises(ValueError, match="no sound of its records"):
        made(data, [record("ab_cd_fgh12", "What?", "A bell.", dataset="as_20k")])


def test_the_bytes_of_a_test_clip_are_contamination(tmp_path: Path):
    data = tmp_path / "data"
    corpus(data, "audioset", "aaaaaaaaaaa", "bbbbbbbbbbb", sha256="1")
    corpus(data, "mine", "x", split="test", sha256="1")
    records = [record(clip, "What?", "A bell.", dataset="as_20k") for clip in ("aaaaaaaaaaa", "bbbbbbbbbbb")]
    done, cuts = made(data, records)
    assert done.contaminated == 1 and list(cuts) == ["bbbbbbbbbbb.wav"]


def test_a_full_disk_is_one_message_and_leaves_nothing(tmp_path: Path):
    """Its records lie in a database until all are read; with room the same command goes through."""
    data = tmp_path / "data"
    corpus(data, "audioset", "AAAAAAAAAA1")
    asked = [
        record("AAAAAAAAAA1", f"Is this number {number}?", "It is. " * 20, dataset="as_20k") for number in range(2000)
    ]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "r.json").write_text(json.dumps(asked))
    before = sorted(data.rglob("*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(DataError, match=r"\.sqlite: .*make room, and type the same command"):
            openaqa.prepare_openaqa(tmp_path / "r.json", data / "openaqa", **DEFAULTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in sorted(data.rglob("*")) if path.is_file()] == [path for path in before if path.is_file()]
    (cut,) = made(data, asked)[1].values()
    assert len(cut.supervisions) == len(asked)
