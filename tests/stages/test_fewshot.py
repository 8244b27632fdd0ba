"""Stage `fewshot`, from recordings to the table: a model that is given the answer, one that knows nothing, and a kill."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import conf
from datamodules.audio import load_sound
from datamodules.fewshot import Episode, Shot, prompt
from datamodules.language.conversations import TEXT
from datamodules.language.examples import Example, _text
from models.language.vocabulary import IGNORED
from models.quantizer import whole_words
from stages.fewshot import FewShot, Sounds, Words
from stages.hub import weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.runs import graph
from stages.runs.state import run_folder
from stages.scoring.fewshot_scores import SCORES, fewshot_scores

SPLITS = "--splits=[train,validation,test]"


@pytest.fixture(scope="session")
def experiment(copy_of_whole: Callable[..., Path]) -> str:
    return copy_of_whole("heard", "latents", "tokenizer", "cache", "caption").name


@pytest.fixture
def trained(stage: Any, experiment: str) -> str:
    """An experiment with a tokenizer and `caption`, in the folder where this test works."""
    return experiment


def fewshot(*words: str) -> FewShot:
    composed = conf.compose(
        "fewshot", ["smoke"], [], ["data.root=data", "data.corpora=[tones]", "experiment=heard", *words]
    ).conf
    module = FewShot("fewshot", composed, graph.parents("fewshot", composed), run_folder(composed, "fewshot"))
    module.prepare_data()
    module.setup("predict")
    return module


def test_a_text_of_examples_is_an_episode_as_it_is_asked(trained: str):
    """What openaqa learns from, id for id, with the answer behind it (datamodules/language/examples.py)."""
    module = fewshot("llm=caption", "splits=[train,validation,test]")
    assert isinstance(module.writer, Sounds)
    vocabulary = module.writer.vocabulary
    sounds = {"a": [1, 2], "b": [3], "c": [4, 5, 6]}
    episode = Episode(0, 1, ["dog", "rain"], [Shot("a", "rain"), Shot("b", "dog")], "c", "dog")
    blocks = prompt(episode, sounds, 1, induction=True)
    asked = [token for block in [*blocks.head, blocks.query] for token in module.writer.ids(block)]
    answer = module._answer("dog")
    text = _text([Example("rain", [1, 2]), Example("dog", [3]), Example("dog", [4, 5, 6])])
    written = vocabulary.render_running([(role == TEXT, segments) for role, segments in text])
    beginning = [vocabulary.tokenizer.bos_token_id] if written.input_ids[0] == vocabulary.tokenizer.bos_token_id else []
    end = [vocabulary.tokenizer.eos_token_id] if vocabulary.tokenizer.eos_token_id is not None else []
    assert written.input_ids == [*beginning, *asked, *answer, *end]
    assert [label for label in written.labels if label != IGNORED] == [*answer, *end]


class Scores(torch.nn.Module):
    """An LM that does not read: its logits are what `write(logits, is_prompt)` makes of zeros."""

    def __init__(self, write: Callable[[torch.Tensor, bool], None], config: Any, size: int) -> None:
        super().__init__()
        self.write, self.config, self.size, self.device = write, config, size, torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0, **_: Any) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, self.size)
        self.write(logits, logits_to_keep == 1)
        return SimpleNamespace(logits=logits, past_key_values=Nothing())


class Nothing:
    def batch_repeat_interleave(self, count: int) -> None: ...


def given(answer: list[int]) -> Callable[[torch.Tensor, bool], None]:
    """Each id of the answer is likely behind the one before, whatever the prompt."""

    def write(logits: torch.Tensor, is_prompt: bool) -> None:
        for at, token in enumerate(answer[:1] if is_prompt else answer[1:]):
            logits[:, -1 if is_prompt else at, token] = 9.0

    return write


def test_a_model_that_is_given_the_answer_is_always_right_and_guesses_are_at_chance(trained: str):
    module = fewshot("llm=caption", "splits=[train,validation,test]", "shots=[1]", "episodes=150", "ways=2")

    def table(condition: str) -> dict[str, dict[str, Any]]:
        rows = [module.ask(episode, condition) for episode in module.episodes]
        return {line["answers"]: line for line in fewshot_scores(rows, 200, 0)}

    def is_chance(line: dict[str, Any]) -> bool:
        """Within five standard deviations (0.041, of 150 fair coins)."""
        return all(0.29 < line[score]["value"] < 0.71 for score in SCORES if score in line)

    assert is_chance(table("shuffled_codes")["shuffled_codes"])  # a real LLM, whose sounds tell nothing
    lm, size = module.lm, module.writer.vocabulary.size
    generator = torch.Generator().manual_seed(0)

    def noise(logits: torch.Tensor, is_prompt: bool) -> None:
        logits.normal_(generator=generator)

    module.lm = Scores(noise, lm.config, size)
    guessed = table("codes")
    assert is_chance(guessed["codes"]) and is_chance(guessed["majority"])
    assert guessed["nearest"]["mean"]["value"] > 0.8  # low tones, high ones and noise differ in their codes

    rows = []
    for episode in module.episodes:
        module.lm = Scores(given(module._answer(episode.answer)), lm.config, size)
        rows.append(module.ask(episode, "codes"))
    table = {line["answers"]: line for line in fewshot_scores(rows, 200, 0)}["codes"]
    assert table["mean"]["value"] == table["sum"]["value"] == table["greedy"]["value"] == 1
    asked = len({row["recordings"][0] for row in rows})
    assert asked < 150 and table["mean"]["low"] == pytest.approx(asked / (asked + 3.8415), abs=1e-4), "Wilson's"


def test_a_killed_run_goes_on_to_the_same_report(stage: Any, trained: str, tones: Path, capsys: Any):
    words = ["--llm=caption", SPLITS, "--experiment=heard", "--shots=[1,2]", "--episodes=3"]
    assert stage("run", "fewshot", *words) == 0
    printed = capsys.readouterr().out
    assert (
        "| 2 | the LLM, shots' labels shuffled | 3 |" in printed
        and "18 prompts expected, 18 scored, 0 failed" in printed
    )
    folder = tones / "runs/heard/fewshot"
    whole = {
        name: (folder / "artifact" / name).read_bytes() for name in ("report.json", "report.md", "predictions.jsonl")
    }
    assert json.loads(whole["report.json"])["scored"] == 18

    rows = (folder / "predictions-0.jsonl").read_text().splitlines()
    (folder / "receipt.json").unlink()
    (folder / "predictions-0.jsonl").write_text("\n".join(rows[:7]) + '\n{"shots": 1, "epi')
    assert stage("status", "--experiment=heard") == 0
    assert "7 rows" in capsys.readouterr().out
    assert stage("run", "fewshot", *words) == 0
    assert {name: (folder / "artifact" / name).read_bytes() for name in whole} == whole
    assert len((folder / "predictions-0.jsonl").read_text().splitlines()) == 18
    assert stage("run", "fewshot", *words) == 0 and "done" in capsys.readouterr().out


def test_an_llm_without_words_for_the_codes_is_refused(trained: str):
    with pytest.raises(
        ValueError, match=r"random:tiny has \d+ whole words of one token, and the tokenizer has 16 codes.*--llm=caption"
    ):
        fewshot("llm=frozen", "splits=[train,validation,test]")


def test_no_recording_with_a_label_is_refused(trained: str):
    with pytest.raises(ValueError, match="in the splits nowhere has one label"):
        fewshot("splits=[nowhere]")


def test_the_first_level_of_the_first_seconds_is_read(stage: Any, trained: str, tones: Path):
    """Codes are numbered level after level; of the first level they are those of the whole that stand there."""
    quantizer = ["--quantizer.kind=residual", "--quantizer.strides=[2,1]"]
    assert stage("run", "tokenizer", "--experiment=levels", "--parents.latents=heard", *quantizer) == 0
    with pytest.raises(ValueError, match=r"levels=3, and the tokenizer has 2. Type --levels=null"):
        fewshot("llm=frozen", "levels=3", SPLITS.removeprefix("--"), "parents.tokenizer=levels")
    module = fewshot("llm=caption", SPLITS.removeprefix("--"))
    module.sound_tokenizer = SoundTokenizer.from_pretrained(tones / "runs/levels/tokenizer")
    module.levels, module.read_levels = module.sound_tokenizer.facts["levels"], 2
    assert module.levels == [0, 1, 1]
    sound = module.episodes[0].query
    whole = module._codes(sound)
    assert all(code // 16 == (n % 3 > 0) for n, code in enumerate(whole)) and len(whole) > 6
    module.read_levels, module.codes = 1, {}
    assert module._codes(sound) == whole[::3]
    module.conf.seconds, module.conf.max_codes, module.codes = 0.5, None, {}
    cut, rate = module._cut(sound), module.sound_tokenizer.sample_rate
    wave = load_sound(cut, module.roots["tones"], rate, 1, count=cut.recording.sampling_rate // 2)
    (first,) = module.sound_tokenizer.encode([wave], rate)
    assert module._codes(sound) == first[::3] and 0 < len(first) < len(whole)


@pytest.mark.assets
def test_a_frozen_llm_reads_a_lexical_tokenizers_codes_as_their_words(stage: Any, trained: str, tones: Path):
    if not weights.cached_path(weights.parse(weights.ASSETS["smollm2-135m-instruct"])).is_file():
        pytest.skip("smollm2-135m-instruct is not in the cache")
    quantizer = ["--quantizer.kind=lexical", "--quantizer.words=64", "--quantizer.words_from=smollm2-135m-instruct"]
    assert stage("run", "tokenizer", "--experiment=words", "--parents.latents=heard", *quantizer) == 0
    frozen = ["--llm=frozen", "--model.source=smollm2-135m-instruct", SPLITS, "--episodes=2", "--controls=[]"]
    assert stage("run", "fewshot", "--experiment=words", *frozen) == 0
    report = json.loads((tones / "runs/words/fewshot/artifact/report.json").read_text())
    assert report["codes_are"] == "words" and report["scored"] == report["expected"] == 2
    module = fewshot("experiment=words", "llm=frozen", "model.source=smollm2-135m-instruct", "splits=[train]")
    quantizer_ = module.sound_tokenizer.tokenizer.quantizer
    text = "".join(
        piece if isinstance(piece, str) else quantizer_.text(torch.tensor([piece]))[0]
        for piece in ("Input: < ", [3, 63], " >")
    )
    assert module.writer.ids(["Input: < ", [3, 63], " >"]) == module.writer.tokenizer(text).input_ids


@pytest.mark.assets
def test_codes_are_one_word_and_one_id_each(trained: str):
    """The words of SmolLM2."""
    if not weights.cached_path(weights.parse(weights.ASSETS["smollm2-135m-instruct"])).is_file():
        pytest.skip("smollm2-135m-instruct is not in the cache")
    tokenizer = weights.load_language_model("smollm2-135m-instruct", None, "float32").tokenizer
    words, word_ids = whole_words(tokenizer, 8)
    ids = Words(tokenizer, words).ids(["Input: < ", [0, 5, 6, 3, 5, 6], " >"])
    expected = [word_ids[code] for code in (0, 5, 6, 3, 5, 6)]
    assert any(ids[start : start + 6] == expected for start in range(len(ids)))


def test_the_table_counts_by_hand():
    """Three of four right by the mean, as many by the sum but another: [-4, -3] of 4 and 1 ids are -1 and -3 an id. Greedy
    decoding takes what begins best.
    """
    base = {
        "shots": 1,
        "condition": "codes",
        "labels": ["a", "b"],
        "majority": "a",
        "nearest": "b",
        "empty": [0.0, -9.0],
        "lengths": [4, 1],
    }
    scores = [[-4.0, -3.0], [-4.0, -3.0], [-4.0, -5.0], [-8.0, -1.0]]
    answers = ["a", "b", "a", "b"]
    rows = [
        base
        | {"episode": n, "scores": one, "answer": answer, "greedy": "ab"[n == 3], "recordings": [f"q{n}", "s", "t"]}
        for n, (one, answer) in enumerate(zip(scores, answers, strict=True))
    ]
    lines = {line["answers"]: line for line in fewshot_scores(rows, 100, 0)}
    assert lines["codes"]["mean"]["value"] == 0.75 and lines["codes"]["sum"]["value"] == 0.75
    assert lines["codes"]["greedy"]["value"] == 0.75
    assert lines["codes"]["calibrated"]["value"] == 0.5  # b is 9 above its empty query: always b
    assert lines["majority"]["mean"]["value"] == lines["nearest"]["mean"]["value"] == 0.5
    assert lines["codes"]["by_class"] == {"a": 1.0, "b": 0.5}
    assert "calibrated" not in fewshot_scores([row | {"empty": None} for row in rows], 100, 0)[0]
