"""An adapter comes back from its artifact, to the LLM it was trained on and to no other."""

import json
from pathlib import Path

import pytest
import torch

from conf import compose, plain
from conf.sections.language import LanguageConf
from stages.hub import artifacts, language_model, weights

FACTS = {"codebook_size": 5, "levels": [0], "bitrate": 10.0}


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    model, tokenizer = weights.load_language_model("random:tiny", None, "float32")
    model.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    return tmp_path / "llm"


def configuration(llm: Path, *overrides: str) -> LanguageConf:
    words = [f"model.source={llm}", "embedding_initialization=mean", *overrides]
    return compose("openaqa", ["smoke"], overrides=words).conf


def saved(folder: Path, conf: LanguageConf) -> language_model.Built:
    built = language_model.build(conf, FACTS, None)
    artifacts.save(folder, {"conf": plain(conf), "facts": FACTS, "base": built.base}, built.model.trainable_state())
    return built


def test_an_artifact_holds_the_adapter_and_the_new_rows_alone(llm: Path, tmp_path: Path):
    built = saved(tmp_path / "artifact", configuration(llm))
    _, state = artifacts.load(tmp_path / "artifact")
    assert set(state) == {name for name, tensor in built.model.lm.named_parameters() if tensor.requires_grad}
    assert all("lora_" in name or name.endswith("new_rows") for name in state)
    model, _ = language_model.load(tmp_path / "artifact")
    ids = torch.tensor([[1, 5, built.vocabulary.start_id, built.vocabulary.first_code_id]])
    assert torch.equal(model.logits(ids, torch.ones_like(ids)), built.model.eval().logits(ids, torch.ones_like(ids)))


def test_another_llm_under_the_same_name_is_refused(llm: Path, tmp_path: Path):
    saved(tmp_path / "artifact", configuration(llm))
    model = weights.load_language_model(str(llm), None, "float32").model
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight += 0.1
    model.save_pretrained(llm)
    with pytest.raises(ValueError, match=r"trained on other weights than those that .*llm holds now.*--restart"):
        language_model.load(tmp_path / "artifact")


def test_an_artifact_without_a_fingerprint_is_refused(llm: Path, tmp_path: Path):
    saved(tmp_path / "artifact", configuration(llm))
    path = tmp_path / "artifact/config.json"
    config = json.loads(path.read_text())
    del config["base"], config["conf"]["model"]["attention"]  # of a key that there was not yet, nothing is said
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="of an earlier version"):
        language_model.load(tmp_path / "artifact")


def test_the_keys_of_how_to_compute_reach_the_model(llm: Path):
    built = language_model.build(
        configuration(llm, "model.attention=eager", "model.activation_checkpointing=true"), FACTS, None
    )
    assert built.model.lm.config._attn_implementation == "eager" and built.model.lm.is_gradient_checkpointing
    configured = language_model.build(configuration(llm, "prompts.template_options.enable_thinking=false"), FACTS, None)
    assert configured.vocabulary.template.options == {"enable_thinking": False}
