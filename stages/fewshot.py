"""Stage `fewshot`: does an LLM that was never trained on sound learn to name sounds from a few examples in its prompt?

UniAudio 1.5's protocol (Yang et al. 2024, arXiv:2406.10056) over the codes of any tokenizer: `datamodules/fewshot.py` has the prompt, and what is
different. Each class is scored by its log-likelihood, the episode read once. Rows are appended as they come: a killed run goes on.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any, Protocol

from conf import plain
from conf.errors import UsageError
from conf.sections.evaluation import FewShotConf
from datamodules.atomic_files import write_whole
from datamodules.audio import load_sound
from datamodules.cuts import Cut
from datamodules.fewshot import DrawnEpisodes, Episode, LabelledSound, Piece, draw_episodes, prompt
from datamodules.sampler import DealtBatches
from datamodules.store.manifest import Manifest
from models.language.likelihood import greedy_choice, log_likelihoods, read_prefix, token_log_likelihoods
from models.language.vocabulary import Vocabulary
from models.metrics.probe import nearest_histogram
from models.quantizer import whole_words
from stages.base import Exported, Parents, Row, RowStage, write_rows
from stages.hub import language_model, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.reports import fewshot_table
from stages.reports.formatting import write_report
from stages.runs import corpora
from stages.runs.ranks import rank
from stages.scoring.fewshot_scores import fewshot_scores

EPISODES = "episodes.json"  # of the run folder: drawn by rank 0, read by all


class Writer(Protocol):
    """Pieces of text and sound to ids of the LLM. A code is its number among those of all levels, the first level's first."""

    tokenizer: Any

    def ids(self, pieces: Sequence[Piece]) -> list[int]: ...


class Words:
    """Codes as words that the LLM knows: those of a lexical codebook, or else its own most frequent ones, one a code."""

    def __init__(self, tokenizer: Any, words: Sequence[str]) -> None:
        self.tokenizer, self.words = tokenizer, words

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        spelt = (one if isinstance(one, str) else " ".join(self.words[code] for code in one) for one in pieces)
        return self.tokenizer("".join(spelt), add_special_tokens=False).input_ids


class Sounds:
    """Codes as the sound tokens that the LLM was taught."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary, self.tokenizer = vocabulary, vocabulary.tokenizer

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                ids += self.tokenizer(piece, add_special_tokens=False).input_ids
            else:
                ids += self.vocabulary.request_ids([code % self.vocabulary.codebook_size for code in piece])
        return ids


class FewShot(RowStage[tuple[int, int, str]]):
    conf: FewShotConf
    unit = "answers"

    def __init__(self, stage: str, conf: FewShotConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.sound_tokenizer = SoundTokenizer.from_runs(parents["tokenizer"].folder, None)
        self.store, self.roots = folder / "cuts", corpora.roots(conf.data)
        self.check_corpora(corpora.hashes(conf.data))
        self.conditions = ["codes", *conf.controls]
        self.expected = list(product(conf.shots, range(conf.episodes), self.conditions))
        # rank 0 draws the episodes before anything is moved or written: what cannot be asked is refused here
        stored = self._read_episodes() if self.skipped is None else None
        self.drawn = stored or self._draw_episodes() if rank() == 0 else None
        self.levels: list[int] = parents["tokenizer"].facts["levels"]  # of each code of a block
        self.read_levels = conf.levels or max(self.levels) + 1
        if self.read_levels > max(self.levels) + 1:
            raise UsageError(
                f"fewshot: levels={conf.levels}, and the tokenizer has {max(self.levels) + 1}. Type --levels=null for all"
            )
        self.lm, self.writer = self._llm()
        self.codes: dict[str, list[int]] = {}

    def _llm(self) -> tuple[Any, Writer]:
        if self.conf.llm != "frozen":
            model, vocabulary = language_model.load(self.parents[self.conf.llm].artifact)
            return model.lm, Sounds(vocabulary)
        chosen, facts = self.conf.model, self.parents["tokenizer"].facts
        lm, tokenizer = weights.load_language_model(chosen.source, chosen.revision, chosen.dtype, chosen.attention)
        words = self.sound_tokenizer.words
        if words is None:
            wanted = self.read_levels * facts["codebook_size"]
            words, _ = whole_words(tokenizer, wanted)
            if len(words) < wanted:
                raise UsageError(
                    f"fewshot: {chosen.source} has {len(words)} whole words of one token, and the tokenizer has {wanted} codes. Choose an LLM of more words, "
                    "or one that was taught the codes, as --llm=caption"
                )
        return lm.requires_grad_(False), Words(tokenizer, words)

    def prepare_data(self) -> None:
        """On rank 0."""
        self.write_manifest()
        assert self.drawn is not None, "drawn by this rank"
        key = {"inputs": self.inputs, "asked": self._asked_for()}
        write_whole(self.folder / EPISODES, json.dumps(key | self.drawn._asdict()))

    def setup(self, stage: str) -> None:
        drawn = self.drawn or self._read_episodes()
        assert drawn is not None, "written by rank 0"
        self.manifest = Manifest(self.store)
        self.episodes = drawn.episodes
        self.disturbed = {one.id: conditions for one, conditions in zip(drawn.episodes, drawn.conditions, strict=True)}

    def _asked_for(self) -> dict[str, Any]:
        """What the episodes depend on, beside the recordings."""
        names = ("splits", "ways", "shots", "episodes", "seed", "controls")
        return {name: plain(self.conf)[name] for name in names}

    def _read_episodes(self) -> DrawnEpisodes | None:
        """Those that this run has written; None where there are none, or of other recordings."""
        path = self.folder / EPISODES
        if not path.is_file():
            return None
        stored = json.loads(path.read_text())
        if (stored.pop("inputs"), stored.pop("asked")) != (self.inputs, self._asked_for()):
            return None
        return DrawnEpisodes.from_plain(stored)

    def _draw_episodes(self) -> DrawnEpisodes:
        conf = self.conf
        customs = ((cut["id"], cut["custom"]) for cut in self._cuts())
        sounds = [
            LabelledSound(name, custom["source"], custom["labels"][0])
            for name, custom in customs
            if custom["split"] in conf.splits and len(custom["labels"]) == 1
        ]
        if not sounds:
            raise UsageError(
                f"fewshot: no recording of {', '.join(conf.data.corpora)} in the splits {', '.join(conf.splits)} has one label. "
                "Prepare the corpus with a column `label`, or type --splits=[train,test]"
            )
        return draw_episodes(sounds, conf.ways, conf.shots, conf.episodes, self.conditions, conf.seed)

    def _cuts(self) -> Iterator[dict[str, Any]]:
        """Those of the manifest: of a run that goes on it is written."""
        if self.skipped is None:
            stored = Manifest(self.store)
            return (stored.fields(row) for row in range(len(stored)))
        return map(json.loads, corpora.lines(self.conf.data, {one.id for one in self.skipped}))

    def datamodule(self) -> DealtBatches[Episode]:
        return DealtBatches(self._unfinished)

    def _unfinished(self) -> list[Episode]:
        saved = self.rows()
        return [one for one in self.episodes if any(key not in saved for key in self._keys(one))]

    def _keys(self, episode: Episode) -> list[tuple[int, int, str]]:
        return [(episode.shots_per_class, episode.number, condition) for condition in self.conditions]

    def key(self, row: Row) -> tuple[int, int, str]:
        return row["shots"], row["episode"], row["condition"]

    def on_predict_start(self) -> None:
        super().on_predict_start()
        self.sound_tokenizer.to(self.device)

    def predict_rows(self, batch: Episode) -> Iterator[Row]:
        return (self.ask(batch, key[-1]) for key in self._keys(batch) if key not in self.saved)

    def ask(self, episode: Episode, condition: str) -> Row:
        """One row: of each class the log-likelihood (nats) after the query, its number of ids, and, to calibrate, the
        log-likelihood after an empty query; and the recordings that are heard, the query's first.
        """
        disturbed = self.disturbed[episode.id][condition]
        asked = episode._replace(shots=disturbed.shots)
        codes = {sound: self._codes(other) for sound, other in disturbed.shown.items()}
        blocks = prompt(asked, codes, self.conf.repeats, self.conf.induction)
        tokenizer, answers = self.writer.tokenizer, [self._answer(label) for label in asked.labels]
        head = [tokenizer.bos_token_id] if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else []
        head += [token for block in blocks.head for token in self.writer.ids(block)]
        query = self.writer.ids(blocks.query)
        self._check_length(episode, len(head) + len(query) + max(map(len, answers)))
        if self.conf.calibrated:
            prefix = read_prefix(self.lm, head)
            without = read_prefix(self.lm, self.writer.ids(blocks.empty), prefix)
            empty, asked_of = log_likelihoods(self.lm, without, answers), read_prefix(self.lm, query, prefix)
        else:
            empty, asked_of = None, read_prefix(self.lm, head + query)
        values = token_log_likelihoods(self.lm, asked_of, answers)
        shots = [(codes[shot.sound], shot.label) for shot in asked.shots]
        heard = [disturbed.shown[sound] for sound in (episode.query, *(shot.sound for shot in asked.shots))]
        return {
            "shots": episode.shots_per_class, "episode": episode.number, "condition": condition, "labels": asked.labels,
            "query": episode.query, "answer": episode.answer, "recordings": [self._cut(one).custom["source"] for one in heard],
            "scores": [sum(some) for some in values], "empty": empty, "lengths": [len(ids) for ids in answers],
            "greedy": asked.labels[greedy_choice(answers, values)],
            "majority": Counter(shot.label for shot in asked.shots).most_common(1)[0][0],
            "nearest": nearest_histogram(shots, codes[episode.query]), "prompt_tokens": len(head) + len(query),
        }  # fmt: skip

    def _answer(self, label: str) -> list[int]:
        """The ids of a label where it stands behind `Output:`, with the end of its line: no label is the prefix of another."""
        head, whole = self.writer.ids(["Output:"]), self.writer.ids([f"Output: {label}\n"])
        if whole[: len(head)] != head:
            raise UsageError(
                f"fewshot: the LLM's tokenizer joins 'Output:' and {label!r} in one token. Choose another model.source"
            )
        return whole[len(head) :]

    def _codes(self, sound: str) -> list[int]:
        """Of a recording's first `seconds`, on the first `levels`, the first `max_codes`; each by its number among all levels'."""
        if sound not in self.codes:
            cut, tokenizer = self._cut(sound), self.sound_tokenizer
            recording, seconds = cut.recording, self.conf.seconds
            count = min(recording.num_samples, round(seconds * recording.sampling_rate)) if seconds else None
            root = self.roots[cut.custom["corpus"]]
            wave = load_sound(cut, root, tokenizer.sample_rate, tokenizer.channels, count=count)
            codes = zip(tokenizer.encode([wave], tokenizer.sample_rate)[0], cycle(self.levels), strict=False)
            size = tokenizer.codebook_size
            self.codes[sound] = [level * size + code for code, level in codes if level < self.read_levels]
        return self.codes[sound][: self.conf.max_codes]

    def _cut(self, sound: str) -> Cut:
        row = self.manifest.row_of(sound)
        assert row is not None, "the episodes are of these cuts"
        return self.manifest.cut(row)

    def _check_length(self, episode: Episode, tokens: int) -> None:
        most = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise UsageError(
                f"fewshot: an episode of {episode.shots_per_class} shots has {tokens} tokens, and the LLM reads {most}. "
                "Type --max_codes=20 (of each sound), or fewer --shots"
            )

    def export(self, artifact: Path) -> Exported:
        assert self.drawn is not None, "drawn by this rank"
        rows = list(self.rows().values())
        report = {
            "experiment": self.conf.experiment,
            "llm": self.conf.model.source if self.conf.llm == "frozen" else self.conf.llm,
            "codes_are": "words" if isinstance(self.writer, Words) else "sound tokens",
            "corpora": self.conf.data.corpora,
            "recordings": self.drawn.recordings,
            "classes": self.drawn.classes,
            "ways": self.conf.ways,
            "levels": self.conf.levels,
            "seconds": self.conf.seconds,
            "expected": len(self.expected),
            "scored": len(rows),
            "table": fewshot_scores(rows, self.conf.bootstrap_samples, self.conf.seed),
        }
        text = fewshot_table.markdown(report)
        write_report(artifact, report, text)
        write_rows(artifact / "predictions.jsonl", rows)
        print(text)
        return Exported(self.parents["tokenizer"].facts, {"table": report["table"]})
