"""Stage `fewshot`: does an LLM that was never trained on sound learn to name sounds from a few examples in its prompt?

UniAudio 1.5's protocol (Yang et al. 2024, arXiv:2406.10056) over the codes of any tokenizer: `datamodules/fewshot.py` has the prompt, and what is
different. Each class is scored by its log-likelihood, the episode read once. Rows are appended as they come: a killed run goes on.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from conf.errors import UsageError
from conf.sections.evaluation import FewShotConf
from datamodules.audio import load_sound
from datamodules.fewshot import Episode, LabelledSound, Piece, disturb, episodes, prompt
from datamodules.sampler import DealtBatches
from models.language.likelihood import log_likelihoods, read_prefix
from models.language.vocabulary import Vocabulary
from models.metrics.probe import nearest_histogram
from models.quantizer import whole_words
from stages.base import Exported, Parents, Row, RowStage, write_rows
from stages.hub import language_model, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.reports import fewshot_table
from stages.reports.formatting import write_report
from stages.runs import corpora
from stages.scoring.fewshot_scores import fewshot_scores


class Writer(Protocol):
    """Pieces of text and sound to ids of the LLM."""

    tokenizer: Any

    def ids(self, pieces: Sequence[Piece]) -> list[int]: ...


class Words:
    """Codes as words that the LLM knows: those of a lexical codebook, or else its own most frequent ones, one a code."""

    def __init__(self, tokenizer: Any, words: Sequence[str], levels: Sequence[int], codebook_size: int) -> None:
        """levels: of each code of a block; every level has words of its own, codebook_size of them."""
        self.tokenizer, self.words, self.levels, self.codebook_size = tokenizer, words, levels, codebook_size

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        text = "".join(piece if isinstance(piece, str) else self._spelt(piece) for piece in pieces)
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _spelt(self, codes: Sequence[int]) -> str:
        levels = self.levels
        return " ".join(self.words[levels[n % len(levels)] * self.codebook_size + code] for n, code in enumerate(codes))


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
                ids += self.vocabulary.sound_ids(piece)
        return ids


class FewShot(RowStage[tuple[int, int, str]]):
    conf: FewShotConf
    unit = "answers"

    def __init__(self, stage: str, conf: FewShotConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        self.sound_tokenizer = SoundTokenizer.from_pretrained(parents["tokenizer"].folder)
        recordings = corpora.recordings(stage, conf.data)
        self.roots = recordings.roots
        self.cuts = {
            cut.id: cut
            for cut in recordings.cuts
            if cut.custom["split"] in conf.splits and len(cut.custom["labels"]) == 1
        }
        if not self.cuts:
            raise UsageError(
                f"fewshot: no recording of {', '.join(conf.data.corpora)} in the splits {', '.join(conf.splits)} has one label. "
                "Prepare the corpus with a column `label`, or type --splits=[train,test]"
            )
        sounds = [LabelledSound(cut.id, cut.custom["source"], cut.custom["labels"][0]) for cut in self.cuts.values()]
        self.episodes = [
            episode for shots in conf.shots for episode in episodes(sounds, conf.ways, shots, conf.episodes, conf.seed)
        ]
        self.conditions = ["codes", *conf.controls]
        self.expected = [key for episode in self.episodes for key in self._keys(episode)]
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
            wanted = facts["num_codebooks"] * facts["codebook_size"]
            words, _ = whole_words(tokenizer, wanted)
            if len(words) < wanted:
                raise UsageError(
                    f"fewshot: {chosen.source} has {len(words)} whole words of one token, and the tokenizer has {wanted} codes. Choose an LLM of more words, "
                    "or one that was taught the codes, as --llm=caption"
                )
        return lm.requires_grad_(False), Words(tokenizer, words, facts["levels"], facts["codebook_size"])

    def datamodule(self) -> DealtBatches[Episode]:
        saved = self.rows()
        return DealtBatches([one for one in self.episodes if any(key not in saved for key in self._keys(one))])

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
        """One row: of each class the log-likelihood (nats) after the query, its number of ids, and, to calibrate, the log-likelihood after an empty query."""
        asked, shown = disturb(episode, condition, list(self.cuts), self.conf.seed)
        codes = {sound: self._codes(other) for sound, other in shown.items()}
        blocks = prompt(asked, codes, self.conf.repeats, self.conf.induction)
        tokenizer, answers = self.writer.tokenizer, [self._answer(label) for label in asked.labels]
        head = [tokenizer.bos_token_id] if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else []
        head += [token for block in blocks.head for token in self.writer.ids(block)]
        query = self.writer.ids(blocks.query)
        self._check_length(episode, len(head) + len(query) + max(map(len, answers)))
        if self.conf.calibrated:
            prefix = read_prefix(self.lm, head)
            scores, empty = (
                log_likelihoods(self.lm, read_prefix(self.lm, ids, prefix), answers)
                for ids in (query, self.writer.ids(blocks.empty))
            )
        else:
            scores, empty = log_likelihoods(self.lm, read_prefix(self.lm, head + query), answers), None
        shots = [(codes[shot.sound], shot.label) for shot in asked.shots]
        return {
            "shots": episode.shots_per_class, "episode": episode.number, "condition": condition, "labels": asked.labels,
            "query": episode.query, "answer": episode.answer, "scores": scores, "empty": empty, "lengths": [len(ids) for ids in answers],
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
        """Of the first `max_codes` of a recording."""
        if sound not in self.codes:
            cut, tokenizer = self.cuts[sound], self.sound_tokenizer
            wave = load_sound(cut, self.roots[cut.custom["corpus"]], tokenizer.sample_rate, tokenizer.channels)
            self.codes[sound] = tokenizer.encode([wave], tokenizer.sample_rate)[0]
        return self.codes[sound][: self.conf.max_codes]

    def _check_length(self, episode: Episode, tokens: int) -> None:
        most = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise UsageError(
                f"fewshot: an episode of {episode.shots_per_class} shots has {tokens} tokens, and the LLM reads {most}. "
                "Type --max_codes=20 (of each sound), or fewer --shots"
            )

    def export(self, artifact: Path) -> Exported:
        rows = list(self.rows().values())
        report = {
            "experiment": self.conf.experiment,
            "llm": self.conf.model.source if self.conf.llm == "frozen" else self.conf.llm,
            "codes_are": "words" if isinstance(self.writer, Words) else "sound tokens",
            "corpora": self.conf.data.corpora,
            "recordings": len(self.cuts),
            "classes": len({cut.custom["labels"][0] for cut in self.cuts.values()}),
            "ways": self.conf.ways,
            "expected": len(self.expected),
            "scored": len(rows),
            "table": fewshot_scores(rows, self.conf.bootstrap_samples, self.conf.seed),
        }
        text = fewshot_table.markdown(report)
        write_report(artifact, report, text)
        write_rows(artifact / "predictions.jsonl", rows)
        print(text)
        return Exported(self.parents["tokenizer"].facts, {"table": report["table"]})
