"""Ask, generate, encode, decode, export: what the command prints and writes is what the parts give by hand."""

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from callbacks import spectrogram_image
from conf import compose
from datamodules.store import chunks
from models.language.generation import Guidance, Sampling, generate, pad_left
from models.language.likelihood import text_scores
from models.language.vocabulary import Turn
from stages.cli.main import main
from stages.hub import find_model, language_model, model_card, sound_tokens_as_text, trained_model, weights
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.text_to_sound import candidate_seed, text_to_sound
from stages.runs import receipts
from tests.conftest import SMOKE
from tests.other_luck import IN_A_NEW_PROCESS

QUESTION = "Is it noise?"
BORDER = "=" * 20  # between what two codes print
SCORES = "\nprint(model(**inputs).logits[0, -1].tolist())\n"  # of the first id of the answer
TAUGHT = ("--trainer.max_steps=80", "--optimizer.learning_rate=0.02")
HOT = 100.0  # a temperature at which each id is about as likely as the others, whatever was learned


@pytest.fixture(scope="session")
def run(tones: Path, whole: Path) -> Path:
    """An experiment alone in its folder of runs, openaqa at its end."""
    before = Path.cwd()
    os.chdir(tones)
    try:
        for name in ("latents", "tokenizer", "cache"):
            shutil.copytree(whole / name, tones / "runs_of_verbs/used" / name)
        for name in ("caption", "openaqa"):
            assert main(["run", name, "--experiment=used", "--runs=runs_of_verbs", *SMOKE, *TAUGHT]) == 0
    finally:
        os.chdir(before)
    return tones / "runs_of_verbs/used"


def load_model(runs: str, folder: str | None = None) -> trained_model.TrainedModel:
    """The model of the experiment `main` of `runs`, or of a folder."""
    language = find_model.find(runs, "main", None, folder).language
    assert language is not None
    return trained_model.load(language, torch.device("cpu"))


@pytest.fixture(scope="session")
def model(run: Path) -> trained_model.TrainedModel:
    return load_model(str(run.parent))


@pytest.fixture
def place(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, whose runs/ holds the experiment and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/used").symlink_to(run)
    return tmp_path


@pytest.fixture(scope="session")
def clip(run: Path, tones: Path) -> Path:
    return tones / "recordings/07.flac"


def codes_of(run: Path, clip: Path) -> list[int]:
    """What the stage `cache` made of it."""
    cuts = chunks.read(run / "cache/chunks")
    return next(list(cut.custom["codes"]) for cut in cuts if cut.recording.sources[0].source.endswith(clip.name))


def answer(
    model: trained_model.TrainedModel, turns: list[Turn], most: int = 64, sampling: Sampling | None = None
) -> str:
    ids, mask = pad_left([model.vocabulary.render(turns, generate=True).input_ids], model.vocabulary.pad_id)
    return model.vocabulary.decode(generate(model.lm, model.vocabulary, ids, mask, most, "text", sampling)[0])


def scores(model: trained_model.TrainedModel, turns: list[Turn]) -> list[float]:
    """What SCORES prints."""
    with torch.no_grad():
        return model.lm(torch.tensor([model.vocabulary.render(turns, generate=True).input_ids])).logits[0, -1].tolist()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip()


def test_an_answer_is_the_model_s_to_the_cached_codes(run, place, clip, model, capsys):
    wanted = answer(model, [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]).strip()
    assert main(["ask", str(clip), QUESTION]) == 0
    found = capsys.readouterr()
    assert found.out.strip() == wanted
    assert found.err.splitlines()[0] == "experiment used, the only one in runs/ that is trained"
    for words in (["--experiment=used"], ["--model=runs/used/openaqa"], ["--model", "runs/used"], ["--runs=runs"]):
        assert main(["ask", str(clip), QUESTION, *words]) == 0
        assert said(capsys) == wanted
    loaded, _ = language_model.load(run / "openaqa/artifact")
    assert torch.equal(next(loaded.parameters()), next(model.lm.parameters()))


def test_options_of_an_answer(run, place, clip, model, capsys):
    turns = [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]
    assert main(["ask", str(clip), QUESTION, "--temperature=1.5", "--seed", "4", "--max-new-tokens=7"]) == 0
    assert said(capsys) == answer(model, turns, 7, Sampling(1.5, 1.0, [4]))
    assert main(["ask", str(clip), QUESTION, "--temperature=hot"]) == 1
    assert "temperature: Value 'hot'" in capsys.readouterr().err
    assert main(["ask", str(clip), QUESTION, "--max-new-tokens=5000"]) == 1
    assert re.search(
        r"too long: \d+ tokens and an answer of up to 5000 are more than the LLM's 4096", capsys.readouterr().err
    )


def test_several_clips_come_before_the_question(run, place, clip, model, tones, capsys):
    other = tones / "recordings/01.flac"
    assert main(["ask", str(clip), str(other), QUESTION]) == 0
    codes = [codes_of(run, one) for one in (clip, other)]
    assert said(capsys) == answer(model, [Turn("user", [codes[0], "\n", codes[1], "\n", QUESTION])])


def test_without_a_question_it_is_a_conversation(run, place, clip, model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\nIs it loud?\n\nnever read\n"))
    assert main(["ask", str(clip), "--max-new-tokens=9"]) == 0
    turns = [Turn("user", [codes_of(run, clip), f"\n{QUESTION}"])]
    first = answer(model, turns, 9)
    turns += [Turn("assistant", [first]), Turn("user", ["Is it loud?"])]
    assert capsys.readouterr().out == f"{first}\n{answer(model, turns, 9)}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 5000))
    assert main(["ask", str(clip)]) == 1
    assert "too long" in capsys.readouterr().err


def test_sounds_are_the_model_s_and_each_hangs_on_its_seed(run, place, model, capsys):
    words = ["generate", "a low sound", "--seconds-max=2", "--temperature=1.2", "--top-p=0.9", "--guidance=2"]
    assert main([*words, "--out=a.wav", "--n=3", "--seed=5", "--spectrogram"]) == 0
    names = ["a-1.png", "a-1.wav", "a-2.png", "a-2.wav", "a-3.png", "a-3.wav"]
    assert sorted(path.name for path in place.iterdir() if path.name != "runs") == names
    tokenizer = SoundTokenizer.from_pretrained(run / "tokenizer")
    rendered = [
        model.vocabulary.render([Turn("user", [model.prompts.text_to_sound[0].format(caption=text)])], generate=True)
        for text in ("a low sound", "")
    ]
    told, free = (pad_left([one.input_ids], model.vocabulary.pad_id) for one in rendered)
    room = tokenizer.num_codes(2.0) + 2
    found = generate(
        model.lm, model.vocabulary, *told, room, "audio", Sampling(1.2, 0.9, [6]), Guidance(2.0, *free)
    )  # fmt: skip
    codes = model.vocabulary.codes(found[0])
    wanted = tokenizer.decode([codes], seed=6)[0]
    sound, rate = soundfile.read("a-2.wav", dtype="float32")
    assert rate == tokenizer.sample_rate and len(sound) == min(wanted.shape[1], 2 * rate)
    expected = wanted[0, : len(sound)] / max(1, float(wanted[:, : len(sound)].abs().max()))
    # Griffin-Lim turns rounding, another in a batch of three, into sound; another seed or code gives another sound
    assert (torch.from_numpy(sound) - expected).norm() < 0.3 * expected.norm()
    assert re.search(rf"a-2\.wav: {len(sound) / rate:.2f} s, {len(codes)} codes", capsys.readouterr().out)
    picture = Image.open("a-2.png")
    assert picture.size[1] == 4 * spectrogram_image.BANDS
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 30 and np.ptp(colours, axis=1).max() > 100, "neither one shade nor grey"

    before = Path("a-2.wav").read_bytes()
    assert main([*words, "--out=a.wav", "--n=3", "--seed=5"]) == 1
    assert "a-1.wav exists; --force replaces it" in capsys.readouterr().err
    assert main([*words, "--out=a-2.wav", "--seed=6", "--force"]) == 0
    assert Path("a-2.wav").read_bytes() == before, "the same seed alone"
    assert main([*words, "--out=b.wav", "--n=2", "--temperature=0"]) == 1
    assert "temperature: at 0 all 2 sounds would be the same" in capsys.readouterr().err


def test_the_best_of_several_is_the_one_under_which_the_caption_is_most_probable(run, place, model, capsys):
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


def test_what_was_cut_is_said_and_what_ended_is_not(run, place, clip, model, capsys):
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
        said = f"{reached[-1]} of 3 sounds reached --seconds_max={seconds:g}\n" if reached[-1] else ""
        assert [line for line in capsys.readouterr().err.splitlines(True) if "reached" in line] == [said][: bool(said)]
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


def test_codes_go_to_a_file_and_back(run, place, clip, capsys):
    assert main(["encode", str(clip), "--out=codes.json"]) == 0
    found = json.loads(Path("codes.json").read_text())
    tokenizer = SoundTokenizer.from_pretrained(run / "tokenizer")
    assert found["codes"] == codes_of(run, clip)
    assert found["tokenizer"] == receipts.read(run / "tokenizer")["artifact_hash"]
    assert (found["codebook_size"], found["levels"], found["sample_rate"]) == (tokenizer.codebook_size, [0], 44100)
    assert main(["decode", "codes.json", "--out=back.flac", "--spectrogram"]) == 0
    sound, rate = soundfile.read("back.flac", dtype="float32")
    assert (rate, len(sound)) == (44100, found["num_samples"]) and Path("back.png").is_file()
    source = soundfile.info(clip)
    assert abs(source.duration - found["num_samples"] / rate) < 2 / source.samplerate
    capsys.readouterr()
    assert main(["encode", str(clip)]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["encode", str(clip), "--out=codes.json"]) == 1
    assert "codes.json exists" in capsys.readouterr().err

    for change, message in (
        ({"tokenizer": "0" * 64}, "was made by the tokenizer 000000000000, and runs/used/tokenizer is "),
        ({"codes": [0, 99]}, "holds 99; one or more codes from 0 to 15"),
        ({"codes": []}, "has 0 codes"),
        ({"codes": found["codes"] * 2}, "codes stand for"),
        ({"num_samples": -5}, "says -5 samples at 44100 Hz"),
        ({"num_samples": 99_999_999}, "says 99999999 samples"),
        ({"sample_rate": 8000}, "at 8000 Hz"),
    ):
        Path("other.json").write_text(json.dumps(found | change))
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


def test_the_order_of_words_and_an_empty_caption(run, place, clip, capsys):
    assert main(["ask", QUESTION, str(clip)]) == 1
    assert f'stage ask {clip} "{QUESTION}"' in capsys.readouterr().err
    assert main(["ask", str(clip.parent), QUESTION]) == 1
    assert "is a folder" in capsys.readouterr().err
    assert main(["generate", " ", "--out=empty.wav"]) == 1
    assert "an empty caption" in capsys.readouterr().err
    assert main(["generate", "low", "--out=c.wav", "--seconds_max=0"]) == 1  # either spelling; refused by its law
    assert "seconds_max" in capsys.readouterr().err


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_one_clear_error(words: str, place: Path, clip: Path, capsys):
    Path("note.txt").write_text("no sound")
    before = sorted(place.rglob("*"))
    assert main([str(clip) if word == "CLIP" else word for word in words.split()]) == 1
    found = capsys.readouterr().err
    assert MISTAKES[words] in found and found.count("stage: ") == 1
    assert sorted(place.rglob("*")) == before


def test_of_several_experiments_one_is_named_and_the_default_is_taken(place: Path, run: Path, clip: Path, capsys):
    (place / "runs/second").symlink_to(run)
    assert main(["ask", str(clip), QUESTION]) == 1
    assert "several experiments are trained in runs/: second, used. Type --experiment=" in capsys.readouterr().err
    (place / "runs/main").symlink_to(run)
    assert main(["ask", str(clip), QUESTION]) == 0
    assert "experiment" not in capsys.readouterr().err


def test_caption_is_used_where_openaqa_is_not_there(place: Path, run: Path):
    for name in ("latents", "tokenizer", "caption"):
        (place / "runs/half").mkdir(exist_ok=True)
        (place / "runs/half" / name).symlink_to(run / name)
    assert find_model.find("runs", "main", "half", None) == find_model.ModelFolders(
        Path("runs/half/caption"), Path("runs/half/tokenizer")
    )
    assert find_model.find("runs", "main", "half", None, language=False).tokenizer == Path("runs/half/tokenizer")
    os.chdir("runs/half/caption")
    for name in (".", "../caption"):
        assert find_model.find("runs", "main", None, name).tokenizer.resolve() == (run / "tokenizer").resolve()
    os.chdir(place)
    receipt = json.loads((run / "tokenizer/receipt.json").read_text())
    (place / "runs/half/tokenizer").unlink()
    (place / "runs/half/tokenizer").mkdir()
    with pytest.raises(
        ValueError, match=r"trained with the tokenizer .* is not finished. Train again:   stage run all"
    ):
        find_model.find("runs", "main", "half", None)
    (place / "runs/half/tokenizer/receipt.json").write_text(json.dumps(receipt | {"artifact_hash": "1" * 64}))
    with pytest.raises(ValueError, match=r"is another one \(111111111111\)"):
        find_model.find("runs", "main", "half", None)


def block(folder: Path, codes: list[int]) -> str:
    """The code of an export's README, with the codes of a sound."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    code = re.sub(r"^question = .*", f"question = {QUESTION!r}", code, flags=re.MULTILINE)
    return re.sub(r"^codes = \[.*?\]", f"codes = {codes}", code, flags=re.MULTILINE)


def outside(folder: Path, *codes: str, path: str = "") -> list[str]:
    """What each code prints, one after another in a fresh process, in the folder, with nothing of ours to import unless `path` says so."""
    own = "" if path else "import sys\nassert not {'stages', 'models', 'datamodules', 'conf'} & set(sys.modules)\n"
    words = [sys.executable, "-P", "-c", f"print({BORDER!r})\n".join(code + own for code in codes)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return [text.strip() for text in done.stdout.split(BORDER)]


def test_a_merged_export_is_plain_transformers_and_ours(place, run, clip, model, capsys):
    assert main(["export", "--to=out"]) == 0
    codes = codes_of(run, clip)
    wanted = answer(model, [Turn("user", [codes, f"\n{QUESTION}"])])
    text = (place / "out/README.md").read_text()
    assert receipts.read(run / "openaqa")["artifact_hash"][:12] in text and "license_name: FILL-IN" in text
    assert "base_model" not in text, "random:tiny is not on the hub"
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = {name: json.loads(re.findall(rf"^{name} = (.*)$", code, re.MULTILINE)[0]) for name in ("codes", "question")}
    tests = {cut.id: cut for cut in chunks.read(run / "cache/chunks").of_split("test")}
    cut = tests[re.findall(r"the codes of (\S+), a test recording", code)[0]]
    assert shown["codes"] == list(cut.custom["codes"])
    asked = [said.custom["question"] for said in cut.supervisions if said.custom["task"] == "question"]
    assert shown["question"] in asked
    turns = [Turn("user", [codes, f"\n{QUESTION}"])]
    *answers, printed = outside(place / "out", block(place / "out", codes), code, block(place / "out", codes) + SCORES)
    assert answers == [wanted, answer(model, [Turn("user", [shown["codes"], f"\n{shown['question']}"])])]
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(scores(model, turns), abs=1e-3)
    capsys.readouterr()
    assert main(["ask", str(clip), QUESTION, "--model=out"]) == 0
    assert said(capsys) == wanted
    for source in ("--model=out", "--experiment=used"):
        assert (
            main(["generate", "a low sound", f"--out={source[2:].replace('=', '-')}.wav", source, "--seconds-max=1"])
            == 0
        )
    assert Path("model-out.wav").read_bytes() == Path("experiment-used.wav").read_bytes()
    assert main(["encode", str(clip), "--model=out", "--out=codes.json"]) == 0
    assert main(["decode", "codes.json", "--out=back.wav"]) == 0, "the export's tokenizer is the run's"
    assert main(["export", "--to=out"]) == 1
    assert "out exists already" in capsys.readouterr().err
    assert main(["export", "--to=out", "--adapter", "--force"]) == 0
    assert not (place / "out/model.safetensors").exists()
    assert main(["export", "--to=again", "--model=out"]) == 1
    assert "is an export already" in capsys.readouterr().err
    assert sorted(path.name for path in place.iterdir() if path.name.startswith(".")) == []


def test_a_base_model_is_a_hub_id_and_nothing_else(place: Path):
    (place / "models/vicuna").mkdir(parents=True)
    sources = [
        "lmsys/vicuna-7b-v1.5",
        "models/vicuna",
        "/models/x",
        "./x/y",
        "../y",
        "smollm2-135m-instruct",
        "a/b.gguf",
    ]
    assert [model_card._is_hub_id(source) for source in (*sources, "random:tiny")] == [True, *[False] * 7]


def test_a_card_shows_the_scores_before_the_losses(place: Path):
    receipt = {
        "stage": "openaqa",
        "artifact_hash": "a" * 64,
        "metrics": {"val/text_loss": 0.5, "val/audio_loss": math.nan},
    }
    assert model_card._metrics(place / "x/openaqa", receipt).startswith("Not evaluated on held-out sound.\n")
    (place / "x/evaluate/artifact").mkdir(parents=True)
    (place / "x/evaluate/receipt.json").write_text(json.dumps({"parents": {"openaqa": "a" * 64}}))
    (place / "x/evaluate/artifact/report.md").write_text("# x: held-out scores\n\n## Questions\n")
    found = model_card._metrics(place / "x/openaqa", receipt)
    assert found.startswith("### x: held-out scores\n\n#### Questions\n") and "audio_loss" not in found
    assert (
        found.index("#### Questions")
        < found.index("### At the end of the training")
        < found.index("- val/text_loss: 0.5")
    )


def test_an_adapter_is_peft_s_and_ours(place, run, clip, model, capsys):
    assert main(["export", "--to=out", "--adapter"]) == 0
    names = {name.rpartition(".")[2] for name in load_file("out/adapter_model.safetensors")}
    assert names == {"weight", "trainable_tokens_delta"}
    base, _ = weights.load_language_model("random:tiny", None, "float32")
    base.resize_token_embeddings(model.vocabulary.size, mean_resizing=False)
    peft = PeftModel.from_pretrained(base, "out")
    ids = torch.tensor([model.vocabulary.render([Turn("user", [codes_of(run, clip), "?"])]).input_ids])
    with torch.no_grad():
        torch.testing.assert_close(peft(ids).logits, model.lm(ids).logits, atol=1e-5, rtol=1e-4)
    codes = codes_of(run, clip)
    wanted = answer(model, [Turn("user", [codes, f"\n{QUESTION}"])])
    code = IN_A_NEW_PROCESS + block(place / "out", codes)  # random:tiny is made there once more
    assert outside(place / "out", code, path=str(Path(__file__).parents[3])) == [wanted]
    capsys.readouterr()
    assert main(["ask", str(clip), QUESTION, "--model=out"]) == 0
    assert said(capsys) == wanted


def test_levels_untied_rows_and_ltu_are_exported_too(stage, tones: Path, whole: Path, place: Path, monkeypatch):
    """Blocks of two levels, an LLM with a head of its own, and a prompt that is no chat template of the LLM's."""
    monkeypatch.chdir(tones)
    words = ["--experiment=blocks", "--runs=runs_of_verbs"]
    shutil.copytree(whole / "latents", tones / "runs_of_verbs/blocks/latents")
    assert stage("run", "tokenizer", *words, "--quantizer.kind=residual", "--quantizer.strides=[2,1]") == 0
    assert stage("run", "cache", *words) == 0
    assert stage("run", "caption", *words, *TAUGHT, "--model.source=random:tiny-untied", "--prompts.format=ltu") == 0
    monkeypatch.chdir(place)
    run = tones / "runs_of_verbs/blocks"
    assert main(["export", "--to=out", f"--model={run / 'caption'}"]) == 0
    from_run = load_model("runs", str(run / "caption"))
    codes = list(next(iter(chunks.read(run / "cache/chunks"))).custom["codes"])
    turns = [Turn("user", [codes, f"\n{QUESTION}"])]
    text, printed = outside(place / "out", block(place / "out", codes), block(place / "out", codes) + SCORES)
    assert text == answer(from_run, turns)
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(scores(from_run, turns), abs=1e-3)
    exported = trained_model.load_export(Path("out"))
    assert exported.vocabulary.render([Turn("user", [codes])]) == from_run.vocabulary.render([Turn("user", [codes])])
    assert main(["generate", "rain", "--out=a.wav", "--model=out", "--seconds-max=1"]) == 0


def test_a_tokenizer_that_numbers_otherwise_is_not_exported(model: trained_model.TrainedModel):
    """A hole among the ids is filled first: the sounds would have other ids than those that were trained."""
    _, tokenizer = weights.load_language_model("random:tiny", None, "float32")
    sound_tokens_as_text.add_sound_tokens(tokenizer, model.vocabulary)
    assert tokenizer.convert_tokens_to_ids(model.vocabulary.token_names()) == list(model.vocabulary.new_ids)
    with pytest.raises(ValueError, match=r"has a token <\|sound_start\|> already"):
        sound_tokens_as_text.add_sound_tokens(tokenizer, model.vocabulary)
    _, tokenizer = weights.load_language_model("random:tiny", None, "float32")
    words = model.vocabulary
    holed = type(words).__new__(type(words))
    vars(holed).update(vars(words) | {"text_size": words.text_size + 3, "size": words.size + 3})
    with pytest.raises(ValueError, match=r"would call <\|sound_start\|> 259, and the model was trained with 262"):
        sound_tokens_as_text.add_sound_tokens(tokenizer, holed)
