"""Ask, generate, encode, decode: what the command prints and writes is what the parts give by hand."""

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from conf import compose, plain
from conf.sections.language import PromptsConf
from models.language.generation import Guidance, Sampling, generate, pad_left
from models.language.likelihood import text_scores
from models.language.vocabulary import Turn
from stages.cli.main import main
from stages.hub import find_model, language_model, trained_model
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.text_to_sound import WORDS_MAX, candidate_seed, text_to_sound
from stages.runs import receipts
from tests.stages.cli.trained_run import QUESTION, answer, codes_of, output

HOT = 100.0  # a temperature at which each id is about as likely as the others, whatever was learned


def test_an_answer_is_the_model_s_to_the_cached_codes(run, folder_with_run, clip, model, capsys):
    wanted = answer(model, [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]).strip()
    assert main(["ask", str(clip), QUESTION]) == 0
    actual = capsys.readouterr()
    assert actual.out.strip() == wanted
    assert actual.err.splitlines()[0] == "experiment used, the only one in runs/ that is trained"
    for words in (["--experiment=used"], ["--model=runs/used/openaqa"], ["--model", "runs/used"], ["--runs=runs"]):
        assert main(["ask", str(clip), QUESTION, *words]) == 0
        assert output(capsys) == wanted
    loaded, _ = language_model.load(run / "openaqa/artifact")
    assert torch.equal(next(loaded.parameters()), next(model.lm.parameters()))


def test_options_of_an_answer(run, folder_with_run, clip, model, capsys):
    turns = [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]
    assert main(["ask", str(clip), QUESTION, "--temperature=1.5", "--seed", "4", "--max-new-tokens=7"]) == 0
    assert output(capsys) == answer(model, turns, 7, Sampling(1.5, 1.0, [4]))
    assert main(["ask", str(clip), QUESTION, "--audio-contrast=100", "--max-new-tokens=7"]) == 0
    assert output(capsys) == answer(model, turns, 7, None, 100.0)
    assert main(["ask", str(clip), QUESTION, "--temperature=hot"]) == 1
    assert "temperature: Value 'hot'" in capsys.readouterr().err
    assert main(["ask", str(clip), QUESTION, "--max-new-tokens=5000"]) == 1
    assert re.search(
        r"too long: \d+ tokens and an answer of up to 5000 are more than the LLM's 4096", capsys.readouterr().err
    )


def test_several_clips_come_before_the_question(run, folder_with_run, clip, model, tones, capsys):
    other = tones / "recordings/01.flac"
    assert main(["ask", str(clip), str(other), QUESTION]) == 0
    codes = [codes_of(run, one) for one in (clip, other)]
    assert output(capsys) == answer(model, [Turn("user", [codes[0], "\n", codes[1], "\n", QUESTION])])


def test_without_a_question_it_is_a_conversation(run, folder_with_run, clip, model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\nIs it loud?\n\nnever read\n"))
    assert main(["ask", str(clip), "--max-new-tokens=9"]) == 0
    turns = [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]
    first = answer(model, turns, 9)
    turns += [Turn("assistant", [first]), Turn("user", ["Is it loud?"])]
    assert capsys.readouterr().out == f"{first}\n{answer(model, turns, 9)}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 5000))
    assert main(["ask", str(clip)]) == 1
    assert "too long" in capsys.readouterr().err


def test_sounds_are_the_model_s_and_each_hangs_on_its_seed(run, folder_with_run, model, capsys):
    words = ["generate", "a low sound", "--seconds-max=2", "--temperature=1.2", "--top-p=0.9", "--guidance=2"]
    assert main([*words, "--out=a.wav", "--n=3", "--seed=5", "--spectrogram"]) == 0
    names = ["a-1.png", "a-1.wav", "a-2.png", "a-2.wav", "a-3.png", "a-3.wav"]
    assert sorted(path.name for path in folder_with_run.iterdir() if path.name != "runs") == names
    tokenizer = SoundTokenizer.from_pretrained(run / "tokenizer")
    rendered = [
        model.vocabulary.render([Turn("user", [model.prompts.text_to_sound[0].format(caption=text)])], generate=True)
        for text in ("a low sound", "")
    ]
    given, free = (pad_left([one.input_ids], model.vocabulary.pad_id) for one in rendered)
    room = tokenizer.num_codes(2.0) + 2
    actual = generate(
        model.lm, model.vocabulary, *given, room, "audio", Sampling(1.2, 0.9, [6]), Guidance(2.0, *free)
    )  # fmt: skip
    codes = model.vocabulary.codes(actual[0])
    wanted = tokenizer.decode([codes], seed=6)[0]
    sound, rate = soundfile.read("a-2.wav", dtype="float32")
    assert rate == tokenizer.sample_rate and len(sound) == min(wanted.shape[1], 2 * rate)
    expected = wanted[0, : len(sound)] / max(1, float(wanted[:, : len(sound)].abs().max()))
    # Griffin-Lim turns rounding, another in a batch of three, into sound; another seed or code gives another sound
    assert (torch.from_numpy(sound) - expected).norm() < 0.3 * expected.norm()
    assert re.search(rf"a-2\.wav: {len(sound) / rate:.2f} s, {len(codes)} codes", capsys.readouterr().out)
    picture = Image.open("a-2.png")
    assert picture.size > (640, 256), "axes stand beside it"
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 30 and np.ptp(colours, axis=1).max() > 100, "neither one shade nor grey"

    before = Path("a-2.wav").read_bytes()
    assert main([*words, "--out=a.wav", "--n=3", "--seed=5"]) == 1
    assert "a-1.wav exists; --force replaces it" in capsys.readouterr().err
    assert main([*words, "--out=a-2.wav", "--seed=6", "--force"]) == 0
    assert Path("a-2.wav").read_bytes() == before, "the same seed alone"
    assert main([*words, "--out=b.wav", "--n=2", "--temperature=0"]) == 1
    assert "temperature: at 0 all 2 sounds would be the same" in capsys.readouterr().err


def test_where_no_guidance_is_typed_it_is_that_of_the_training(model):
    """And 5 for an export of an earlier version, which does not say it."""
    guided = model._replace(prompts=replace(model.prompts, guidance=100.0))
    asked = {typed: compose("generate", overrides=[f"guidance={typed}"]).conf for typed in ("null", 100, 0)}
    made = {
        typed: text_to_sound(guided, ["a low sound"] * 4, 12, list(range(4)), settings)
        for typed, settings in asked.items()
    }
    assert made["null"] == made[100] != made[0]
    earlier = {key: value for key, value in plain(model.prompts).items() if key != "guidance"}
    assert PromptsConf(**earlier).guidance == 5.0


def test_an_llm_that_was_taught_with_lengths_is_told_one(model):
    """Each sound's own, or what is typed; the prompt without a caption, which guidance subtracts, tells it too."""

    def written(template: str, captions: list[str], guidance: float, seconds: list[float] | None) -> list[list[int]]:
        options = [f"guidance={guidance}", "seconds_max=2", "temperature=0"]
        taught = model._replace(prompts=replace(model.prompts, text_to_sound=[template]))
        settings = compose("generate", overrides=options).conf
        return text_to_sound(taught, captions, 12, [1, 2], settings, seconds=seconds)

    two, told = ["low", "high"], "{seconds} s: {caption}"
    each = written("{caption}", ["0.5 s: low", "7.0 s: high"], 1, None)
    assert written(told, two, 1, [0.5, 7.0]) == each
    assert written(told, two, 2, None) == written("2.0 s: {caption}", two, 2, [0.5, 7.0])


def test_an_llm_that_was_taught_words_before_sounds_writes_them_first(model):
    """The words that it says by itself, then the sound as behind a prompt that has them; guidance subtracts one without."""
    vocabulary, captions = model.vocabulary, ["low", "", "a very high sound"]
    taught = model._replace(prompts=replace(model.prompts, labels_before_sound=True))
    settings = compose("generate", overrides=["guidance=50", "seconds_max=2", "temperature=1.2", "top_p=0.9"]).conf
    made = text_to_sound(taught, captions, 12, [1, 2, 3], settings)
    wording = model.prompts.text_to_sound[0]
    free = vocabulary.render([Turn("user", [wording.format(caption="").strip()])], generate=True).input_ids
    for seed, caption, sound in zip((1, 2, 3), captions, made, strict=True):
        asked = vocabulary.render([Turn("user", [wording.format(caption=caption).strip()])], generate=True).input_ids
        words = generate(model.lm, vocabulary, *pad_left([asked], vocabulary.pad_id), WORDS_MAX, "words")[0]
        assert 0 < len(words) <= WORDS_MAX and vocabulary.decode(words)
        expected = generate(
            model.lm, vocabulary, *pad_left([asked + words if caption else asked], vocabulary.pad_id), 14, "audio",
            Sampling(1.2, 0.9, [seed]), Guidance(50.0, *pad_left([free], vocabulary.pad_id)),
        )  # fmt: skip
        assert sound == vocabulary.codes(expected[0])
    assert made != text_to_sound(model, captions, 12, [1, 2, 3], settings)
    assert made[1] == text_to_sound(model, [""], 12, [2], settings)[0], "nothing is named where nothing is asked for"


def test_the_best_of_several_is_the_one_under_which_the_caption_is_most_probable(run, folder_with_run, model, capsys):
    """Drawn one by one, and scored one by one."""
    options = {"seconds_max": 2, "temperature": HOT, "guidance": 2, "top_k": 4, "seed": 3}
    words = ["generate", "a low sound", *(f"--{key}={value}" for key, value in options.items())]
    assert main([*words, "--out=best.wav", "--best-of=5", "--n=2"]) == 0
    printed = [int(count) for count in re.findall(r"(\d+) codes", capsys.readouterr().out)]
    one_by_one = compose("generate", overrides=[f"{key}={value}" for key, value in options.items()]).conf
    most = SoundTokenizer.from_pretrained(run / "tokenizer").num_codes(2.0)
    chosen = []
    for seed in (3, 4):
        seeds = [candidate_seed(seed, number) for number in range(5)]
        assert seeds[0] == seed and len(set(seeds)) == 5
        sounds = [text_to_sound(model, ["a low sound"], most, [one], one_by_one)[0] for one in seeds]
        request = f"\n{model.prompts.sound_to_text[0]}"
        values = [
            text_scores(
                model.lm, model.vocabulary, [[Turn("user", [one, request]), Turn("assistant", ["a low sound"])]]
            )[0]
            for one in sounds
        ]
        chosen.append(sounds[values.index(max(values))])
    five = compose("generate", overrides=[f"{key}={value}" for key, value in (options | {"best_of": 5}).items()]).conf
    assert text_to_sound(model, ["a low sound"] * 2, most, [3, 4], five) == chosen
    assert printed == [len(one) for one in chosen]
    assert main([*words, "--out=cold.wav", "--best_of=2", "--temperature=0"]) == 1
    assert "at 0 all 2 sounds to choose from would be the same" in capsys.readouterr().err


def test_what_was_cut_is_said_and_what_ended_is_not(run, folder_with_run, clip, model, capsys):
    turns = [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]
    seed, length = an_answer_that_ends(model, turns)
    hot = [f"--temperature={HOT}", f"--seed={seed}", "--experiment=used"]
    for most, note in ((length, f"the answer stopped at --max_new_tokens={length}\n"), (length + 1, "")):
        assert main(["ask", str(clip), QUESTION, f"--max-new-tokens={most}", *hot]) == 0
        assert capsys.readouterr().err == note

    options = {"temperature": HOT, "top_p": 1, "guidance": 1}
    settings = compose("generate", overrides=[f"{key}={value}" for key, value in options.items()]).conf
    words = ["generate", "low", "--out=cut.wav", "--n=3", "--seed=5"]
    words += [f"--{key}={value}" for key, value in options.items()]
    tokenizer = SoundTokenizer.from_pretrained(run / "tokenizer")
    reached = []
    for seconds in (0.01, 30.0):
        most = tokenizer.num_codes(seconds)
        codes = text_to_sound(model, ["low"] * 3, most, [5, 6, 7], settings)
        reached.append(sum(len(one) == most for one in codes))
        assert main([*words, f"--seconds-max={seconds}", "--experiment=used", "--force"]) == 0
        printed = f"{reached[-1]} of 3 sounds reached --seconds_max={seconds:g}\n" if reached[-1] else ""
        assert [line for line in capsys.readouterr().err.splitlines(True) if "reached" in line] == [printed][
            : bool(printed)
        ]
    assert reached[0] == 3 and reached[1] < 3


def an_answer_that_ends(model: trained_model.TrainedModel, turns: list[Turn]) -> tuple[int, int]:
    """A seed with which an answer of some tokens ends by itself, and how many: each token is an end with the same small chance."""
    vocabulary, seeds = model.vocabulary, list(range(64))
    ids, mask = pad_left([vocabulary.render(turns, generate=True).input_ids] * len(seeds), vocabulary.pad_id)
    for first in range(0, 64 * len(seeds), len(seeds)):
        sampling = Sampling(HOT, 1.0, [first + seed for seed in seeds])
        lengths = map(len, generate(model.lm, vocabulary, ids, mask, 200, "text", sampling))
        for seed, length in enumerate(lengths, first):
            if 0 < length < 200:
                return seed, length
    raise AssertionError("no answer ends")


def test_codes_go_to_a_file_and_back(run, folder_with_run, clip, capsys):
    assert main(["encode", str(clip), "--out=codes.json"]) == 0
    actual = json.loads(Path("codes.json").read_text())
    tokenizer = SoundTokenizer.from_pretrained(run / "tokenizer")
    assert actual["codes"] == codes_of(run, clip)
    assert actual["tokenizer"] == receipts.read(run / "tokenizer")["artifact_hash"]
    assert (actual["codebook_size"], actual["levels"], actual["sample_rate"]) == (tokenizer.codebook_size, [0], 44100)
    assert main(["decode", "codes.json", "--out=back.flac", "--spectrogram"]) == 0
    sound, rate = soundfile.read("back.flac", dtype="float32")
    assert (rate, len(sound)) == (44100, actual["num_samples"]) and Path("back.png").is_file()
    source = soundfile.info(clip)
    assert abs(source.duration - actual["num_samples"] / rate) < 2 / source.samplerate
    capsys.readouterr()
    assert main(["encode", str(clip)]) == 0
    assert json.loads(capsys.readouterr().out) == actual
    assert main(["encode", str(clip), "--out=codes.json"]) == 1
    assert "codes.json exists" in capsys.readouterr().err

    for change, message in (
        ({"tokenizer": "0" * 64}, "was made by the tokenizer 000000000000, and runs/used/tokenizer is "),
        ({"codes": [0, 99]}, "holds 99; one or more codes from 0 to 15"),
        ({"codes": []}, "has 0 codes"),
        ({"codes": actual["codes"] * 2}, "codes stand for"),
        ({"num_samples": -5}, "says -5 samples at 44100 Hz"),
        ({"num_samples": 99_999_999}, "says 99999999 samples"),
        ({"sample_rate": 8000}, "at 8000 Hz"),
    ):
        Path("other.json").write_text(json.dumps(actual | change))
        assert main(["decode", "other.json", "--out=x.wav"]) == 1
        assert message in capsys.readouterr().err
    for text, message in (
        ("{", "cannot be read as codes"),
        ('{"codes": [1]}', "has no token_rate"),
        ("[]", "has no codes"),
    ):
        Path("other.json").write_text(text)
        assert main(["decode", "other.json", "--out=x.wav"]) == 1
        assert message in capsys.readouterr().err
    assert not Path("x.wav").exists()


MISTAKES = {
    "ask gone.wav What?": 'no file gone.wav. Type   stage ask CLIP "QUESTION"',
    "ask CLIP gone.wav What?": "no file gone.wav",
    "ask CLIP gone.wav": "no file gone.wav",
    "ask note.txt What?": "note.txt: cannot be decoded",
    "ask CLIP What? --experiment=other": "no finished openaqa or caption in runs/other. Make it:   stage run all --experiment=other\nFinished: used",
    "ask CLIP What? --experiment=used --model=runs/used/openaqa": "give one of them",
    "ask CLIP What? --model=gone": "--model gone is no folder. Allowed: a folder of `stage export --to DIR`",
    "ask CLIP What? --model=runs/used/cache": "holds a run of cache",
    "ask CLIP What? --trainer.devices=2": "takes no configuration, here 'trainer.devices=2'",
    "generate x --out=a.wav --guidence=2": "here 'guidence=2'. Did you mean '--guidance'?",
    "generate x --out=a.txt": "a sound file ends with .wav",
    "generate x --out=no/a.wav": "no folder no",
    "generate x --out=a.wav --top-p=2": "top_p: 2.0; 1e-06 to 1.0 is allowed",
    "ask CLIP What? --device=tpu": "--device tpu: there is ",
    "encode CLIP --device=cuda:99": ", cpu" if torch.cuda.is_available() else "--device cuda:99: there is cpu",
    "export --to=runs": "runs exists already",
    "ask CLIP What? --runs=none": "nothing is trained in none/: no finished openaqa or caption. Train:   stage run all --preset demo",
}  # fmt: skip


def test_the_order_of_words_and_an_empty_caption(run, folder_with_run, clip, capsys):
    assert main(["ask", QUESTION, str(clip)]) == 1
    assert f'stage ask {clip} "{QUESTION}"' in capsys.readouterr().err
    assert main(["ask", str(clip.parent), QUESTION]) == 1
    assert "is a folder" in capsys.readouterr().err
    assert main(["generate", " ", "--out=empty.wav"]) == 1
    assert "an empty caption" in capsys.readouterr().err
    assert main(["generate", "low", "--out=c.wav", "--seconds_max=0"]) == 1  # either spelling; refused by its law
    assert "seconds_max" in capsys.readouterr().err


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_clear_error(words: str, folder_with_run: Path, clip: Path, capsys):
    Path("note.txt").write_text("no sound")
    before = sorted(folder_with_run.rglob("*"))
    assert main([str(clip) if word == "CLIP" else word for word in words.split()]) == 1
    actual = capsys.readouterr().err
    assert MISTAKES[words] in actual and actual.count("stage: ") == 1
    assert sorted(folder_with_run.rglob("*")) == before


def test_of_several_experiments_one_is_named_and_the_default_is_taken(
    folder_with_run: Path, run: Path, clip: Path, capsys
):
    (folder_with_run / "runs/second").symlink_to(run)
    assert main(["ask", str(clip), QUESTION]) == 1
    assert "several experiments are trained in runs/: second, used. Type --experiment=" in capsys.readouterr().err
    (folder_with_run / "runs/main").symlink_to(run)
    assert main(["ask", str(clip), QUESTION]) == 0
    assert "experiment" not in capsys.readouterr().err


def test_caption_is_used_where_openaqa_is_not_there(folder_with_run: Path, run: Path):
    for name in ("latents", "tokenizer", "caption"):
        (folder_with_run / "runs/half").mkdir(exist_ok=True)
        (folder_with_run / "runs/half" / name).symlink_to(run / name)
    assert find_model.find("runs", "main", "half", None) == find_model.ModelFolders(
        Path("runs/half/caption"), Path("runs/half/tokenizer")
    )
    assert find_model.find("runs", "main", "half", None, language=False).tokenizer == Path("runs/half/tokenizer")
    os.chdir("runs/half/caption")
    for name in (".", "../caption"):
        assert find_model.find("runs", "main", None, name).tokenizer.resolve() == (run / "tokenizer").resolve()
    os.chdir(folder_with_run)
    receipt = json.loads((run / "tokenizer/receipt.json").read_text())
    (folder_with_run / "runs/half/tokenizer").unlink()
    (folder_with_run / "runs/half/tokenizer").mkdir()
    with pytest.raises(
        ValueError, match=r"trained with the tokenizer .* is not finished. Train again:   stage run all"
    ):
        find_model.find("runs", "main", "half", None)
    (folder_with_run / "runs/half/tokenizer/receipt.json").write_text(json.dumps(receipt | {"artifact_hash": "1" * 64}))
    with pytest.raises(ValueError, match=r"is another one \(111111111111\)"):
        find_model.find("runs", "main", "half", None)
