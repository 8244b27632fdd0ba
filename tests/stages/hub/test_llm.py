"""What an LLM's source may hold, and what is refused by name before a weight is read."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from conf import compose, presets
from stages.hub import weights

SIZES = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def saved(folder: Path, config: transformers.PretrainedConfig, **changes: object) -> str:
    config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (transformers.T5Config(), {}, r"is an encoder-decoder \(t5\)"),
        (transformers.BartConfig(), {}, r"is an encoder-decoder \(bart\)"),
        (transformers.Gemma3Config(), {}, r"is a multimodal model \(gemma3\).*google/gemma-3-1b-it"),
        (
            transformers.LlamaConfig(**SIZES),
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            r"is quantised \(bitsandbytes\).*unquantised weights",
        ),
        (transformers.ViTConfig(), {}, r"no language model could be loaded.*--model\.source"),
    ],
    ids=["t5", "bart", "gemma3", "4 bit", "vit"],
)
def test_what_cannot_work_is_refused_by_name(
    tmp_path: Path, config: transformers.PretrainedConfig, changes: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=message):
        weights.load_language_model(saved(tmp_path, config, **changes), None, "float32")


def test_attention_that_a_model_has_not_is_refused_by_name(tmp_path: Path):
    config = transformers.Gemma2Config(**SIZES, num_key_value_heads=2, head_dim=8)
    model = transformers.Gemma2ForCausalLM(config)
    model.save_pretrained(tmp_path)
    weights.load_language_model("random:tiny", None, "float32").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no attention of the kind sdpa.*--model\.attention=null"):
        weights.load_language_model(str(tmp_path), None, "float32", "sdpa")
    loaded = weights.load_language_model(str(tmp_path), None, "float32")
    assert loaded.model.config._attn_implementation == "eager"


def test_a_fingerprint_tells_weights_apart_and_no_dtype():
    model = weights.load_language_model("random:tiny", None, "float32").model
    of_model = weights.fingerprint(model)
    assert of_model == weights.fingerprint(weights.load_language_model("random:tiny", None, "bfloat16").model)
    assert of_model != weights.fingerprint(weights.load_language_model("random:tiny-untied", None, "float32").model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.02)
    assert of_model != weights.fingerprint(model)


@pytest.mark.parametrize("preset", [name for name in presets() if name.startswith(("llama", "qwen"))])
def test_the_presets_of_llms_talk_in_their_own_template(preset: str):
    conf = compose("caption", [preset]).conf
    assert conf.prompts.format == "chat"
    options = conf.prompts.template_options
    assert options == (
        {"date_string": "26 Jul 2024"} if "llama" in preset else {"enable_thinking": False} if "qwen3" in preset else {}
    )
    (entry,) = weights.missing("LLM", conf.model.source, "--model.source=X")
    assert "hf auth login" in entry and conf.model.source in entry
