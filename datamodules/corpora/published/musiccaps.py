"""MusicCaps (Agostinelli et al. 2023, arXiv:2301.11325): 5,521 AudioSet clips of music, described by musicians."""

import ast
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora.published.records import About, Options, Record, first, table, youtube
from datamodules.errors import DataError

ABOUT = About(
    "5,521 clips of 10 s of music with a caption",
    ("musiccaps-public.csv", "any folder: <ytid>.wav, [<ytid>]-[<start>-<end>].wav, or as AudioSet's"),
    "kaggle.com/datasets/googleai/musiccaps (CC BY-SA 4.0; the audio is YouTube's)",
    "AudioSet's: what is of its eval is test; validation is held out of train",
)


def records(root: Path, options: Options) -> Iterator[Record]:
    path, files = first(root, ["musiccaps-public.csv"], ABOUT), options.files
    for where, row in table(path, ["ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval"]):
        clip, start, end = row["ytid"], float(row["start_s"]), float(row["end_s"])
        try:
            aspects = [str(aspect) for aspect in ast.literal_eval(row["aspect_list"])]
        except (ValueError, SyntaxError, TypeError):
            raise DataError(
                f"{where}: aspect_list is a list as ['pop', 'guitar'], here {row['aspect_list'][:60]!r}"
            ) from None
        if row["is_audioset_eval"] not in ("True", "False"):
            raise DataError(f"{where}: is_audioset_eval is True or False, here {row['is_audioset_eval']!r}")
        yield Record(
            files.find([*youtube(clip, start, end), f"[{clip}]-[{int(start)}-{int(end)}]"]),
            clip,
            "test" if row["is_audioset_eval"] == "True" else "train",
            where,
            f"youtube:{clip}",
            captions=(row["caption"],),
            metadata={"aspects": aspects, "start_seconds": row["start_s"]},
        )
