"""VCTK (Yamagishi et al. 2019): 110 speakers of English who read; the paper measures reconstruction on it.

The layout and its known gaps are those of Lhotse's recipe (lhotse.recipes.vctk), which ends at the first recording
that is missing; here all are listed.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, QuestionAnswer, Record, first

NO_MIC2 = "p280"
SOME_ABSENT = "p362"
ABOUT = About(
    "44 k sentences read by 110 speakers",
    (
        "wav48_silence_trimmed/p225/p225_001_mic2.flac (0.92), or wav48/p225/p225_001.wav (0.80)",
        "txt/p225/p225_001.txt",
        "speaker-info.txt",
    ),
    "datashare.ed.ac.uk/handle/10283/3443 (CC BY 4.0)",
    "all test, as in the paper; --split=train to train on it",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    folder, texts = first(root, ["wav48_silence_trimmed", "wav48"], ABOUT), first(root, ["txt"], ABOUT)
    name = "{}_mic2.flac" if folder.name == "wav48_silence_trimmed" else "{}.wav"
    speakers = {}
    for line in first(root, ["speaker-info.txt"], ABOUT).read_text(encoding="utf-8").splitlines()[1:]:
        if fields := line.split():
            number, age, gender, accent = (fields + [""] * 4)[:4]
            speakers[number if number.startswith(("p", "s")) else f"p{number}"] = {
                "age": age,
                "gender": gender,
                "accent": accent,
            }
    for path in sorted(texts.glob("*/[!.]*.txt")):
        speaker = path.parent.name
        sound = f"{folder.name}/{speaker}/{name.format(path.stem)}"
        trimmed = folder.name == "wav48_silence_trimmed"
        if (trimmed and speaker == NO_MIC2) or (speaker == SOME_ABSENT and not (root / sound).is_file()):
            continue
        text = path.read_text(encoding="utf-8").strip()
        yield Record(
            sound,
            path.stem,
            "test",
            str(path),
            questions=(QuestionAnswer("transcript", "What is said?", text),) if text else (),
            metadata={"speaker": speaker, **speakers.get(speaker, {})},
        )
