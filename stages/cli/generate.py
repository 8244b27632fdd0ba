"""`stage generate`: sound from words."""

import argparse
import logging

from conf.errors import UsageError
from conf.sections.evaluation import GenerateConf
from stages.cli import model_verbs
from stages.cli.arguments import Subparsers, refuse

log = logging.getLogger(__name__)
BATCH = 8  # sounds generated at a time


def add(subparsers: Subparsers) -> None:
    verb = subparsers.add_parser("generate", parents=[model_verbs.writes_sound()], help="sound from words")
    verb.add_argument("caption", metavar="CAPTION")
    model_verbs.add_keys(verb, "generate")
    verb.set_defaults(verb=generate)


def generate(arguments: argparse.Namespace, overrides: list[str]) -> int:
    refuse(overrides, vars(arguments))
    settings: GenerateConf = model_verbs.settings("generate", arguments)
    if not arguments.caption.strip():
        raise UsageError('an empty caption; type what shall be heard, as   stage generate "a dog barks" --out dog.wav')
    targets = model_verbs.sound_targets(arguments, settings.n)
    loaded = model_verbs.load(arguments, writes=True)
    from callbacks.progress import ProgressLine
    from stages.hub.text_to_sound import text_to_sound

    tokenizer, model = loaded.tokenizer, loaded.language()
    ear = loaded.ear() if settings.best_of > 1 else None
    seeds = [settings.seed + number for number in range(settings.n)]
    most = tokenizer.num_codes(settings.seconds_max)
    line = ProgressLine("generate", len(seeds), "sounds", len(seeds) > 1)
    line.start()
    codes: list[list[int]] = []
    try:
        for start in range(0, len(seeds), BATCH):
            few = seeds[start : start + BATCH]
            codes += text_to_sound(model, [arguments.caption] * len(few), most, few, settings, ear)
            line.update(len(codes))
    finally:
        line.stop()
    longest = max(1, int(settings.seconds_max * tokenizer.sample_rate))  # the last code may reach beyond it
    for target, one, seed in zip(targets, codes, seeds, strict=True):
        model_verbs.write_sound(target, tokenizer, one, longest, seed, arguments.spectrogram)
    if cut := sum(len(one) + len(model.vocabulary.levels) > most for one in codes):
        log.warning("%d of %d sounds reached --seconds_max=%g", cut, len(codes), settings.seconds_max)
    return 0
