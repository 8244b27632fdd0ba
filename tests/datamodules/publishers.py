"""Trees as the field's publishers ship them, made of tones, and what of each recording the cuts must say."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.datamodules.recordings import sound

Rows = Sequence[Sequence[str]]


def write(path: Path, rows: Rows, encoding: str = "utf-8", **style: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, **style).writerows(rows)
    return path


def sounds(root: Path, *names: str) -> None:
    """Short tones, each of its own length: a cut's duration says which file it is of."""
    for number, name in enumerate(names):
        sound(root / name, 0.05 + 0.001 * number, 8000)


def esc50(root: Path) -> None:
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    names = ["1-100032-A-0.wav", "5-9032-A-0.wav", "1-17367-A-10.wav"]
    rows = [
        (name, name[0], "0", kind, "True", name.split("-")[1], "A")
        for name, kind in zip(names, ["dog", "dog", "sea_waves"], strict=True)
    ]
    write(root / "meta/esc50.csv", [header, *rows, rows[0]])
    sounds(root, *(f"audio/{name}" for name in names))


def fsdd(root: Path) -> None:
    sounds(root, "recordings/7_jackson_0.wav", "recordings/7_jackson_32.wav", "recordings/3_theo_5.wav")


def gtzan(root: Path) -> None:
    sounds(root, *(f"genres_original/{genre}/{genre}.0000{n}.wav" for genre in ("jazz", "hiphop") for n in range(2)))
    (root / "genres_original/jazz/jazz.00054.wav").write_bytes(b"no sound, as it is shipped")


def clotho(root: Path) -> None:
    for number, part in enumerate(("development", "validation", "evaluation")):
        name = f"Distorted, {part}.wav"
        captions = [f"{part} {n}" for n in range(1, 6)]
        write(
            root / f"clotho_captions_{part}.csv",
            [["file_name", *(f"caption_{n}" for n in range(1, 6))], [name, *captions]],
        )
        header = ["file_name", "keywords", "sound_id", "sound_link", "start_end_samples", "manufacturer", "license"]
        row = [name, "radio;caf\xe9", f"{number}7", "https://freesound.org", "[0, 1]", "x", "y"]
        write(root / f"clotho_metadata_{part}.csv", [header, row], "latin-1")
        sound(root / part / name, 0.05 + 0.001 * number, 8000)


def audiocaps(root: Path) -> None:
    header = ["audiocap_id", "youtube_id", "start_time", "caption"]
    write(
        root / "dataset/train.csv",
        [header, ["1", "-0xzrMun0Rs", "30", "Rain, then thunder"], ["2", "aaaaaaaaaaa", "0", "A cat"]],
    )
    for number, part in enumerate(("val", "test")):
        write(
            root / f"dataset/{part}.csv",
            [header, *([f"{number}{n}", f"{part}_______", "7", f"{part} {n}"] for n in range(5))],
        )
    sounds(
        root,
        "clips/Y-0xzrMun0Rs.wav",
        "clips/aaaaaaaaaaa_000000.wav",
        "clips/val________7.wav",
        "clips/13.wav",
    )


def audioset(root: Path) -> None:
    top = [
        "# Segments csv created Sun Mar  5 10:54:31 2017\n",
        "# num_ytids=2\n",
        "# YTID, start_seconds, end_seconds, positive_labels\n",
    ]
    rows = {
        "balanced_train_segments": [
            '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n',
            '--aE2O5G5WE, 0.000, 10.000, "/m/0bt9lr"\n',
        ],
        "eval_segments": ['--4gqARaEJE, 0.000, 10.000, "/m/0bt9lr"\n'],
    }
    root.mkdir(parents=True)
    for part, lines in rows.items():
        (root / f"{part}.csv").write_text("".join([*top, *lines]))
    names = [("/m/09x0r", "Speech"), ("/t/dd00088", "Gush"), ("/m/0bt9lr", "Dog, barking")]
    write(
        root / "class_labels_indices.csv",
        [["index", "mid", "display_name"], *([str(n), *pair] for n, pair in enumerate(names))],
    )
    write(root / "mid_to_display_name.tsv", names, delimiter="\t")
    header = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
    events = [["--PJHxphWEs_30000", "0.5", "1.25", "/m/09x0r"], ["--PJHxphWEs_30000", "2.0", "10.0", "/t/dd00088"]]
    write(root / "audioset_train_strong.tsv", [header, *events], delimiter="\t")
    sounds(
        root,
        "balanced_train/Y--PJHxphWEs.wav",
        "balanced_train/--aE2O5G5WE_0_10000.flac",
        "eval/--4gqARaEJE_0.000_10.000.wav",
    )


def vggsound(root: Path) -> None:
    write(
        root / "vggsound.csv",
        [["---g-f_I2yQ", "1", "people marching, loud", "test"], ["--0PQM4-hqg", "30", "waterfall burbling", "train"]],
    )
    sounds(root, "audio/---g-f_I2yQ_000001.wav", "audio/--0PQM4-hqg_30000_40000.wav")


def fsd50k(root: Path) -> None:
    truth = root / "FSD50K.ground_truth"
    write(
        truth / "vocabulary.csv",
        [["0", "Electric_guitar", "/m/02sgy"], ["1", "Guitar", "/m/0342h"], ["2", "Crow", "/m/04s8yn"]],
    )
    rows = [["64760", "Electric_guitar,Guitar", "/m/02sgy,/m/0342h", "train"], ["16399", "Crow", "/m/04s8yn", "val"]]
    write(truth / "dev.csv", [["fname", "labels", "mids", "split"], *rows])
    write(truth / "eval.csv", [["fname", "labels", "mids"], ["37199", "Guitar", "/m/0342h"]])
    sounds(root, "FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav", "FSD50K.eval_audio/37199.wav")


def wavcaps(root: Path) -> None:
    data = {
        "AudioSet_SL/as_final.json": [{"id": "Yb0RFKhbpFJA.wav", "caption": "Wind blows.", "duration": 10.0}],
        "BBC_Sound_Effects/bbc_final.json": [{"id": "NHU05051096", "title": "x", "caption": "Birds.", "href": "y"}],
        "FreeSound/fsd_final.json": [{"id": "2219", "caption": "A bell.", "tags": ["a", "b"]}],
    }
    for name, items in data.items():
        (root / "json_files" / name).parent.mkdir(parents=True)
        (root / "json_files" / name).write_text(json.dumps({"num_captions_per_audio": 1, "data": items}))
    (root / "json_files/SoundBible").mkdir()
    (root / "json_files/SoundBible/sb_final.json").write_text(
        json.dumps([{"id": "2219", "caption": "An airplane is landing."}])
    )
    sounds(
        root, "AudioSet_SL_flac/Yb0RFKhbpFJA.flac", "BBC_Sound_Effects_flac/NHU05051096.flac", "FreeSound_flac/2219.flac",
        "SoundBible_flac/2219.flac",
    )  # fmt: skip


def musiccaps(root: Path) -> None:
    header = [
        "ytid",
        "start_s",
        "end_s",
        "audioset_positive_labels",
        "aspect_list",
        "caption",
        "author_id",
        "is_balanced_subset",
        "is_audioset_eval",
    ]
    rows = [
        [
            "-0Gj8-vB1q4",
            "30",
            "40",
            "/m/0140xf,/m/02cjck",
            "['sad', \"it's slow\"]",
            "A ballad, slow.",
            "4",
            "False",
            "True",
        ],
        ["-0SdAVK79lg", "30", "40", "/m/0155w", "['guitar']", "A guitar.", "0", "False", "False"],
    ]
    write(root / "musiccaps-public.csv", [header, *rows])
    sounds(root, "wav/[-0Gj8-vB1q4]-[30-40].wav", "wav/-0SdAVK79lg.wav")


def fma(root: Path) -> None:
    first = ["", "album", "artist", "set", "set", "track", "track", "track"]
    second = ["", "title", "name", "split", "subset", "genre_top", "genres", "title"]
    rows = [
        ["2", "AWOL", "AWOL", "training", "small", "Hip-Hop", "[21, 15]", "Food"],
        ["1005", "x", "y", "test", "small", "", "[]", "z"],
        ["3", "x", "y", "training", "large", "Rock", "[12]", "z"],
    ]
    write(root / "fma_metadata/tracks.csv", [first, second, ["track_id", *[""] * 7], *rows])
    genres = [["21", "1", "0", "Hip-Hop", "21"], ["15", "1", "0", "Electronic", "15"], ["12", "1", "0", "Rock", "12"]]
    write(root / "fma_metadata/genres.csv", [["genre_id", "#tracks", "parent", "title", "top_level"], *genres])
    sounds(root, "fma_small/000/000002.mp3", "fma_small/001/001005.mp3")


def vctk(root: Path) -> None:
    for name, text in (
        ("p225_001", "Please call Stella.\n"),
        ("p280_001", "No second microphone."),
        ("s5_002", "Ask her."),
    ):
        path = root / "txt" / name.split("_")[0] / f"{name}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (root / "speaker-info.txt").write_text(
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\n"
    )
    sounds(root, "wav48_silence_trimmed/p225/p225_001_mic2.flac", "wav48_silence_trimmed/s5/s5_002_mic2.flac")


def mmau(root: Path) -> None:
    one = {
        "id": "3fe64f3d", "audio_id": "./test-mini-audios/3fe64f3d.wav", "question": "Which came first?", "choices": ["Dog", "Cat"], "answer": "Cat",
        "dataset": "x", "task": "sound", "split": "test-mini", "category": "Reasoning", "sub-category": "Order", "difficulty": "easy",
    }  # fmt: skip
    other = dict(
        reversed({**one, "id": "b1", "audio_id": "./test-mini-audios/b1.wav", "task": "music", "answer": "Dog"}.items())
    )
    root.mkdir()
    (root / "mmau-test-mini.json").write_text(json.dumps([one, other]))
    sounds(root, "test-mini-audios/3fe64f3d.wav", "test-mini-audios/b1.wav")


def mmar(root: Path) -> None:
    one = {
        "id": "v_1", "audio_path": "./audio/v_1.wav", "question": "Who?", "choices": ["Owl", "Man"], "answer": "Man", "modality": "mix-sound-speech",
        "category": "Signal Layer", "sub-category": "Order", "source": "youtube", "url": "https://www.youtube.com/watch?v=-0Gj8-vB1q4&t=3",
    }  # fmt: skip
    other = {**one, "id": "BV1", "audio_path": "./audio/BV1.wav", "answer": "Owl\nMan", "url": "https://b23.tv/BV1"}
    sounds(root, "audio/v_1.wav", "audio/BV1.wav")
    (root / "MMAR-meta.json").write_text(json.dumps([one, other]))


def mmsu(root: Path) -> None:
    one = {
        "id": "a_1", "audio_path": "./audio/a_1.wav", "question": "Who?", "choice_a": 2, "choice_b": "None", "choice_c": None, "answer_gt": "None",
        "task_name": "counting", "category": "Perception", "sub-category": "Linguistics",
    }  # fmt: skip
    lines = [one, {**one, "id": "a_2", "audio_path": "/audio/a_2.wav"}]
    sounds(root, "audio/a_1.wav", "audio/a_2.mp3")
    (root / "question").mkdir()
    (root / "question/mmsu.jsonl").write_text("\n".join(map(json.dumps, lines)))


def mmau_pro(root: Path) -> None:
    one = {
        "id": "p1",
        "question": "Who?",
        "choices": ["Owl", "Man"],
        "answer": "Man",
        "audio_path": ["data/p1.wav"],
        "category": "music",
    }
    others = [
        {"category": "open", "choices": None, "answer": "A man speaks."},
        {"category": "instruction following", "choices": None, "answer": None},
        {"category": "speech", "choices": ["Owl"]},
        {"audio_path": ["data/p1.wav", "data/p2.wav"], "category": "multi"},
    ]
    rows = [one, *({**one, "id": f"x{number}", **other} for number, other in enumerate(others))]
    sounds(root, "data/p1.wav", "data/p2.wav")
    (root / "test.jsonl").write_text(
        "\n".join(map(json.dumps, [*rows, {**one, "id": "p2", "audio_path": "data/p2.wav"}]))
    )


TREES: dict[str, tuple[Callable[[Path], None], dict[str, tuple[str, str, list[str], list[str], int]]]] = {
    # path -> split, origin, captions, labels, how many questions
    "esc50": (
        esc50,
        {
            "audio/1-100032-A-0.wav": ("train", "freesound:100032", [], ["dog"], 1),
            "audio/5-9032-A-0.wav": ("test", "freesound:9032", [], ["dog"], 1),
            "audio/1-17367-A-10.wav": ("train", "freesound:17367", [], ["sea waves"], 1),
        },
    ),
    "fsdd": (
        fsdd,
        {
            "recordings/7_jackson_0.wav": (
                "test",
                "fsdd:7_jackson_0",
                ["a speaker saying the word seven"],
                ["seven"],
                1,
            ),
            "recordings/7_jackson_32.wav": (
                "train",
                "fsdd:7_jackson_32",
                ["a speaker saying the word seven"],
                ["seven"],
                1,
            ),
            "recordings/3_theo_5.wav": ("train", "fsdd:3_theo_5", ["a speaker saying the word three"], ["three"], 1),
        },
    ),
    "gtzan": (
        gtzan,
        {
            f"genres_original/{genre}/{genre}.0000{n}.wav": ("test", f"gtzan:{genre}.0000{n}", [], [label], 1)
            for genre, label in (("jazz", "jazz"), ("hiphop", "hip-hop"))
            for n in range(2)
        },
    ),
    "clotho": (
        clotho,
        {
            f"{part}/Distorted, {part}.wav": (
                split,
                f"freesound:{number}7",
                [f"{part} {n}" for n in range(1, 6)],
                [],
                0,
            )
            for number, (part, split) in enumerate(
                (("development", "train"), ("validation", "validation"), ("evaluation", "test"))
            )
        },
    ),
    "audiocaps": (
        audiocaps,
        {
            "clips/Y-0xzrMun0Rs.wav": ("train", "youtube:-0xzrMun0Rs", ["Rain, then thunder"], [], 0),
            "clips/aaaaaaaaaaa_000000.wav": ("train", "youtube:aaaaaaaaaaa", ["A cat"], [], 0),
            "clips/val________7.wav": ("validation", "youtube:val_______", [f"val {n}" for n in range(5)], [], 0),
            "clips/13.wav": ("test", "youtube:test_______", [f"test {n}" for n in range(5)], [], 0),
        },
    ),
    "audioset": (
        audioset,
        {
            "balanced_train/Y--PJHxphWEs.wav": ("train", "youtube:--PJHxphWEs", [], ["Speech", "Gush"], 2),
            "balanced_train/--aE2O5G5WE_0_10000.flac": ("train", "youtube:--aE2O5G5WE", [], ["Dog, barking"], 1),
            "eval/--4gqARaEJE_0.000_10.000.wav": ("test", "youtube:--4gqARaEJE", [], ["Dog, barking"], 1),
        },
    ),
    "vggsound": (
        vggsound,
        {
            "audio/---g-f_I2yQ_000001.wav": ("test", "youtube:---g-f_I2yQ", [], ["people marching, loud"], 1),
            "audio/--0PQM4-hqg_30000_40000.wav": ("train", "youtube:--0PQM4-hqg", [], ["waterfall burbling"], 1),
        },
    ),
    "fsd50k": (
        fsd50k,
        {
            "FSD50K.dev_audio/64760.wav": ("train", "freesound:64760", [], ["Electric guitar", "Guitar"], 1),
            "FSD50K.dev_audio/16399.wav": ("validation", "freesound:16399", [], ["Crow"], 1),
            "FSD50K.eval_audio/37199.wav": ("test", "freesound:37199", [], ["Guitar"], 1),
        },
    ),
    "wavcaps": (
        wavcaps,
        {
            "AudioSet_SL_flac/Yb0RFKhbpFJA.flac": ("train", "youtube:b0RFKhbpFJA", ["Wind blows."], [], 0),
            "BBC_Sound_Effects_flac/NHU05051096.flac": ("train", "bbc:NHU05051096", ["Birds."], [], 0),
            "FreeSound_flac/2219.flac": ("train", "freesound:2219", ["A bell."], [], 0),
            "SoundBible_flac/2219.flac": ("train", "soundbible:2219", ["An airplane is landing."], [], 0),
        },
    ),
    "musiccaps": (
        musiccaps,
        {
            "wav/[-0Gj8-vB1q4]-[30-40].wav": ("test", "youtube:-0Gj8-vB1q4", ["A ballad, slow."], [], 0),
            "wav/-0SdAVK79lg.wav": ("train", "youtube:-0SdAVK79lg", ["A guitar."], [], 0),
        },
    ),
    "fma": (
        fma,
        {
            "fma_small/000/000002.mp3": (
                "train",
                "fma:2",
                ["A piece of music. Genre: Hip-Hop, Electronic."],
                ["Hip-Hop"],
                1,
            ),
            "fma_small/001/001005.mp3": ("test", "fma:1005", [], [], 0),
        },
    ),
    "vctk": (
        vctk,
        {
            "wav48_silence_trimmed/p225/p225_001_mic2.flac": ("test", "vctk:p225_001", [], [], 1),
            "wav48_silence_trimmed/s5/s5_002_mic2.flac": ("test", "vctk:s5_002", [], [], 1),
        },
    ),
    "mmau": (
        mmau,
        {
            "test-mini-audios/3fe64f3d.wav": ("test", "mmau:3fe64f3d", [], [], 1),
            "test-mini-audios/b1.wav": ("test", "mmau:b1", [], [], 1),
        },
    ),
    "mmar": (
        mmar,
        {
            "audio/v_1.wav": ("test", "youtube:-0Gj8-vB1q4", [], [], 1),
            "audio/BV1.wav": ("test", "mmar:BV1", [], [], 1),
        },
    ),
    "mmsu": (
        mmsu,
        {"audio/a_1.wav": ("test", "mmsu:a_1", [], [], 1), "audio/a_2.mp3": ("test", "mmsu:a_2", [], [], 1)},
    ),
    "mmau-pro": (
        mmau_pro,
        {"data/p1.wav": ("test", "mmau-pro:p1", [], [], 2), "data/p2.wav": ("test", "mmau-pro:p2", [], [], 1)},
    ),
}
