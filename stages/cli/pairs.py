"""`stage pairs`: sounds that a trained LLM draws for a caption, the best and the worst by its own ear, for `preference`."""

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from conf.errors import UsageError
from conf.sections.evaluation import SoundPairsConf
from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse

log = logging.getLogger(__name__)
SOUNDS = 64  # drawn at a time


def add(subparsers: Subparsers) -> None:
    text = "pairs of sounds for the stage preference"
    verb = subparsers.add_parser("pairs", parents=[model_verbs.computes()], help=text)
    verb.add_argument("--out", type=os.path.expanduser, required=True, metavar="FILE", help="JSONL that is written")
    verb.add_argument("--force", action="store_true", help="replace an existing file")
    model_verbs.add_keys(verb, "sound_pairs")
    verb.set_defaults(verb=pairs)


def pairs(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    settings: SoundPairsConf = model_verbs.settings("sound_pairs", arguments)
    out = Path(arguments.out)
    model_verbs.check_free([out], arguments.force)
    cache = model_verbs.find_run(arguments, "cache")
    loaded = model_verbs.load(arguments, writes=True)
    from callbacks.progress import ProgressLine
    from datamodules.generation import caption_of
    from datamodules.hashing import choose_by_hash, hash_number
    from datamodules.language.conversations import sound_request
    from datamodules.store import chunks
    from stages.hub.text_to_sound import candidates, caption_scores
    from stages.runs import receipts

    cuts, receipt, most = chunks.read(cache / "chunks"), receipts.read(cache), settings.labels
    assert receipt is not None
    captioned = (
        cut
        for split in ("train", "validation")
        for cut in cuts.of_split(split)
        if caption_of(cut) and (most is None or len(cut.custom.get("labels") or []) <= most)
    )
    asked = choose_by_hash(captioned, settings.captions, lambda cut: cut.id)
    if not asked:
        few = "" if most is None else f" and at most {most} labels (--labels)"
        raise UsageError(f"pairs: no recording of {cache} in the splits train and validation has a caption{few}")
    model, ear, written = loaded.language(), loaded.ear(), 0
    longest, wording = loaded.tokenizer.num_codes(settings.seconds_max), model.prompts.text_to_sound[0]
    line = ProgressLine("pairs", len(asked), "captions", True)
    line.start()
    try:
        with out.open("w") as file:
            step = max(1, SOUNDS // settings.best_of)
            for start in range(0, len(asked), step):
                part = asked[start : start + step]
                captions = [caption_of(cut) or "" for cut in part]
                seconds = [min(cut.duration, settings.seconds_max) for cut in part]
                seeds = [hash_number(f"{settings.seed} {cut.id}") >> 32 for cut in part]
                drawn = candidates(model, captions, longest, seeds, settings, seconds=seconds)
                for cut, caption, length, sounds in zip(part, captions, seconds, drawn, strict=True):
                    distinct = [list(sound) for sound in dict.fromkeys(map(tuple, sounds)) if sound]
                    if len(distinct) > 1:
                        best, worst = _best_and_worst(distinct, caption_scores(ear or model, caption, distinct))
                        values = {"sound": cut.id, "prompt": sound_request(wording, caption, length), "chosen": best}
                        values |= {"rejected": worst, "tokenizer": receipt["parents"]["tokenizer"]}
                        print(json.dumps(values, ensure_ascii=False), file=file, flush=True)
                        written += 1
                line.update(start + len(part))
    finally:
        line.stop()
    print(f"{out}: {written} pairs of {len(asked)} captions")
    if written < len(asked):
        log.warning("%d captions were drawn one sound alone, and give no pair", len(asked) - written)
    return 0


def _best_and_worst(sounds: Sequence[list[int]], scores: Sequence[float]) -> tuple[list[int], list[int]]:
    return sounds[scores.index(max(scores))], sounds[scores.index(min(scores))]
