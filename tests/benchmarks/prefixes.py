"""Whether it pays to choose among beginnings of sounds, and to complete the best, where as many codes are drawn (Plan-Critic, arXiv:2601.14304).

    python -m tests.benchmarks.prefixes --run runs/demo [--best_of 16] [--prune 32x8x9] [--captions 40] [--guidance 3]

--prune 32x8x9: of 32 beginnings of 8 codes the nine under which `openaqa` finds the caption most probable are completed,
and among these nine it chooses. Prints what was drawn, and read by the LLM that chooses, for a caption, in codes, and the
share of kept sounds whose kind the probe of codes reads, as `voice` does, and in how many captions each differs from the first row.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import LogitsProcessorList

from conf import compose
from conf.sections.evaluation import GenerateConf
from datamodules.generation import caption_of, label_of
from datamodules.language.conversations import sound_request
from models.language.generation import (
    ClassifierFreeGuidance,
    Guidance,
    Sampling,
    SoundOnly,
    _sampling_processors,
    _with_unconditional,
    pad_left,
)
from models.language.vocabulary import Turn
from stages.hub import text_to_sound, trained_model
from stages.hub.trained_model import TrainedModel
from tests.benchmarks.voice import Judge, _judge, _text


class Chosen(NamedTuple):
    sounds: list[list[int]]  # one for each caption
    drawn: int  # codes, of all captions
    read: int  # codes that were scored


class Chooser(NamedTuple):
    """model writes, ear chooses, for each of `captions`; at most `most` codes."""

    model: TrainedModel
    ear: TrainedModel
    captions: list[str]
    most: int
    settings: GenerateConf

    def best_of(self, count: int) -> Chosen:
        groups = self._drawn(count, self.most)
        chosen = [self._kept(caption, group, 1)[0] for caption, group in zip(self.captions, groups, strict=True)]
        codes = sum(len(sound) for group in groups for sound in group)
        return Chosen(chosen, codes, codes)

    def pruned(self, count: int, length: int, kept: int) -> Chosen:
        groups = self._drawn(count, length)
        drawn = read = sum(len(begun) for group in groups for begun in group)
        sounds = []
        for row, (caption, group) in enumerate(zip(self.captions, groups, strict=True)):
            best = self._kept(caption, group, kept)
            # one that ended within its beginning is whole
            open_ = [begun for begun in best if len(begun) == length]
            seeds = [text_to_sound.candidate_seed(row, count + number) for number in range(len(open_))]
            whole = [begun for begun in best if len(begun) < length] + self._completed(caption, open_, seeds)
            drawn += sum(map(len, whole)) - sum(map(len, best))
            read += sum(map(len, whole))
            sounds += self._kept(caption, whole, 1)
        return Chosen(sounds, drawn, read)

    def _drawn(self, count: int, most: int) -> list[list[list[int]]]:
        asked = [caption for caption in self.captions for _ in range(count)]
        seeds = [text_to_sound.candidate_seed(row, n) for row in range(len(self.captions)) for n in range(count)]
        sounds = text_to_sound.text_to_sound(self.model, asked, most, seeds, self.settings)
        return [sounds[start : start + count] for start in range(0, len(sounds), count)]

    def _kept(self, caption: str, sounds: list[list[int]], count: int) -> list[list[int]]:
        scores = text_to_sound.caption_scores(self.ear, caption, sounds)
        order = sorted(range(len(sounds)), key=lambda number: -scores[number])
        return [sounds[number] for number in order[:count]]

    def _completed(self, caption: str, begun: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """begun: of one length each; what is drawn goes on where they end."""
        if not begun:
            return []
        model, settings, vocabulary = self.model, self.settings, self.model.vocabulary
        wording, length = model.prompts.text_to_sound[0], 1 + len(begun[0])
        assert len(vocabulary.levels) == 1, "one code a step"

        def ids(text: str) -> list[list[int]]:
            prompt = vocabulary.render([Turn("user", [text])], generate=True).input_ids
            return [prompt + vocabulary.sound_ids(codes)[:-1] for codes in begun]

        own = pad_left(ids(sound_request(wording, caption, settings.seconds_max)), vocabulary.pad_id)
        none = pad_left(ids(sound_request(wording, "", settings.seconds_max)), vocabulary.pad_id)
        both = _with_unconditional(*own, Guidance(settings.guidance, *none), vocabulary.pad_id)
        width = both.input_ids.shape[1]
        grammar = SoundOnly(vocabulary, width - length, self.most + 2)
        sampling = Sampling(settings.temperature, settings.top_p, seeds, settings.top_k)
        processors = [ClassifierFreeGuidance(settings.guidance), grammar]
        processors += _sampling_processors(sampling, len(begun), grammar)
        sequences = model.lm.generate(  # type: ignore[operator]  # a causal LM
            input_ids=both.input_ids, attention_mask=both.attention_mask, max_new_tokens=self.most + 2 - length, do_sample=False,
            eos_token_id=[vocabulary.end_id], pad_token_id=vocabulary.pad_id, logits_processor=LogitsProcessorList(processors),
        )  # fmt: skip
        sounds = []
        for row in sequences[: len(begun), width - length :].tolist():
            sounds.append(vocabulary.codes(row[: row.index(vocabulary.end_id) + 1]))
        return sounds


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument(
        "--after", choices=("openaqa", "text_to_sound"), default="text_to_sound", help="this one writes"
    )
    parser.add_argument("--best_of", type=int, default=16)
    parser.add_argument("--prune", nargs="+", default=["32x8x9", "44x8x4", "64x4x7"])
    parser.add_argument("--captions", type=int, default=40)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    judge: Judge = _judge(options.run, options.captions)
    writes, hears = (trained_model.load(options.run / name, torch.device("cpu")) for name in (options.after, "openaqa"))
    settings: GenerateConf = compose("generate", overrides=[f"guidance={options.guidance}"]).conf
    captions = [caption_of(cut) or "" for cut in judge.asked]
    chooser = Chooser(writes, hears, captions, judge.most, settings)
    print(
        "| chosen among | codes drawn | read | kind found, % | gained | lost |\n|---|---|---|---|---|---|", flush=True
    )
    base: list[bool] | None = None
    for name in (str(options.best_of), *options.prune):
        parts = [int(part) for part in name.split("x")]
        made = chooser.best_of(parts[0]) if len(parts) == 1 else chooser.pruned(*parts)
        right = [kind == label_of(cut) for kind, cut in zip(judge.probe.read(made.sounds), judge.asked, strict=True)]
        base = base or right
        gained, lost = (sum(a and not b for a, b in zip(*pair, strict=True)) for pair in ((right, base), (base, right)))
        count = len(captions)
        print(
            f"| {name} | {made.drawn / count:.0f} | {made.read / count:.0f} | {_text(judge.share(made.sounds))} | "
            f"{gained} | {lost} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
