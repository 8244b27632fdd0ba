"""WavCaps (Mei et al. 2023, arXiv:2303.17395): 400 k clips of four sources, one caption each that ChatGPT wrote from
their descriptions.
"""

from collections.abc import Iterator
from pathlib import Path

import ijson

from datamodules.corpora.published.records import About, Files, Options, Record, first
from datamodules.errors import DataError

SUBSETS = {  # folder -> file, who numbers its clips
    "AudioSet_SL": ("as_final.json", "youtube"),
    "BBC_Sound_Effects": ("bbc_final.json", "bbc"),
    "FreeSound": ("fsd_final.json", "freesound"),
    "SoundBible": ("sb_final.json", "soundbible"),
}
ABOUT = About(
    "403 k captioned clips of AudioSet, BBC, FreeSound, SoundBible (the paper's pretraining)",
    (
        "json_files/AudioSet_SL/as_final.json, BBC_Sound_Effects/bbc_final.json, FreeSound/fsd_final.json, "
        "SoundBible/sb_final.json: those you want",
        "any folder whose name begins with the subset's, as AudioSet_SL_flac/Yb0RFKhbpFJA.flac",
    ),
    "huggingface.co/datasets/cvssp/WavCaps (academic use only; its zip files are joined by zip -F)",
    "all train; validation is held out of it. Clips of Clotho's, AudioCaps' or ESC-50's test splits go (contamination)",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    first(root, [f"json_files/{subset}/{name}" for subset, (name, _) in SUBSETS.items()], ABOUT)
    files = options.files
    for subset, (name, numbers) in SUBSETS.items():
        path = root / "json_files" / subset / name
        if not path.is_file():
            continue
        with path.open("rb") as stream:
            listed = stream.read(64).lstrip()[:1] == b"["  # SoundBible's was a list before it was as the others
            stream.seek(0)
            try:
                for number, item in enumerate(ijson.items(stream, "item" if listed else "data.item"), 1):
                    yield _record(item, subset, numbers, files, f"{path}, record {number}")
            except ijson.JSONError as error:
                raise DataError(f"{path}: no JSON: {str(error).strip().splitlines()[0]}") from None


def _record(item: dict[str, str], subset: str, numbers: str, files: Files, where: str) -> Record:
    if not isinstance(item, dict) or not item.get("id") or not item.get("caption"):
        raise DataError(f"{where}: an object with id and caption is expected, here {str(item)[:60]!r}")
    stem = str(item["id"]).removesuffix(".wav")
    clip = stem.removeprefix("Y") if numbers == "youtube" else stem
    path = files.find([stem, clip], [subset], strict=True)
    return Record(
        path or f"{subset}_flac/{stem}.flac",
        clip,
        "train",
        where,
        f"{numbers}:{clip}",
        captions=(item["caption"].strip(),),
        metadata={"subset": subset},
    )
