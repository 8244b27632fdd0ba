"""The model card of an export: what it is, what it was trained on and how well, and ten lines of code that use it. No
torch here.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from conf import from_plain
from stages.hub import weights
from stages.runs import receipts
from stages.runs.state import run_folder

MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this one
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
"""
ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
{own}
folder = "."  # this one
base = {base}
base.resize_token_embeddings({size}, mean_resizing=False)
tokenizer, model = AutoTokenizer.from_pretrained(folder), PeftModel.from_pretrained(base, folder)
"""
ASK = """\
# {of}
codes = {codes}
question = {question}
sound = "<|sound_start|>" + "".join({name} for {each}) + "<|sound_end|>"
messages = [{system}{{"role": "user", "content": sound + "\\n" + question}}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = tokenizer(text, add_special_tokens={special}, return_tensors="pt")
sounds = list(range({text_size}, {size}))  # no sound in an answer of text
answer = model.generate(**inputs, max_new_tokens=64, do_sample=False, suppress_tokens=sounds)
print(tokenizer.decode(answer[0, inputs.input_ids.shape[1] :], skip_special_tokens=True).strip())
"""


NO_LICENCE = "license_name: FILL-IN"


class CardExample(NamedTuple):
    """The sound and the question of the card's code."""

    codes: list[int]
    question: str
    of: str  # whose codes they are, and the corpus' answer, in one line


def model_card(run: Path, manifest: dict[str, Any]) -> str:
    """run: of the stage that was exported; manifest: the export's make_some_noise.json."""
    receipt = receipts.read(run)
    assert receipt is not None
    rows = {
        "stage": f"{receipt['stage']}, {receipt['steps']} steps, seed {receipt['seed']}",
        "LLM": f"{manifest['source']} ({manifest['dtype']})",
        "LoRA": ", ".join(f"{key} {value}" for key, value in receipt["conf"]["lora"].items()),
        "sound": f"{manifest['codebook_size']} codes, levels {manifest['levels']}, {manifest['token_rate']:.4g} tokens a second, "
        f"{manifest['bitrate'] / 1000:.4g} kbps",
        "ids": f"text below {manifest['text_size']}, sounds from there to {manifest['size'] - 1}",
        "corpora": ", ".join(receipt["conf"]["data"]["corpora"]),
        "artifact": f"{receipt['artifact_hash'][:12]}; tokenizer {manifest['tokenizer'][:12]}",
        "made with": ", ".join(f"{name} {receipt['versions'][name]}" for name in ("torch", "transformers", "peft")),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""\
---
license: other
{NO_LICENCE}   # yours to choose; the licences of {manifest["source"]} and of the corpora bind it
{f"base_model: {manifest['source']}{chr(10)}" if _is_hub_id(manifest["source"]) else ""}library_name: {"peft" if manifest["adapter"] else "transformers"}
pipeline_tag: audio-text-to-text
tags: [audio, sound-tokens, make-some-noise]
---

# A text LLM that hears and makes sound

Trained as in *Make Some Noise* (LM-MSN, arXiv 2503.22275): sound is a few discrete tokens of the LLM's own vocabulary.

| | |
|---|---|
{table}

## Measured

{_metrics(run, receipt)}
## Use

With the project: `stage ask clip.wav "What do you hear?" --model DIR`, `stage generate "a dog barks" --out dog.wav --model DIR`.
With {_needs(manifest)}, the codes of a sound as tokens of text:

```python
{_code(manifest, _example(run, receipt, manifest))}```

Sound to codes and back is `sound_tokenizer/`: `stages.hub.sound_tokenizer.SoundTokenizer.from_pretrained`.
"""


def has_no_licence(export: Path) -> bool:
    """Whether nobody has written one into the card of an export."""
    return NO_LICENCE in (export / "README.md").read_text(encoding="utf-8")


def _needs(manifest: dict[str, Any]) -> str:
    if not manifest["adapter"]:
        return "transformers alone"
    return "peft and this project, which fetches the LLM" if _is_not_on_hub(manifest["source"]) else "peft alone"


def _is_not_on_hub(source: str) -> bool:
    """What peft cannot fetch: it is loaded as it was for the training."""
    return source in weights.ASSETS or source.startswith("random:") or source.endswith(".gguf")


def _is_hub_id(source: str) -> bool:
    """owner/name, and no file or folder."""
    named = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) and not source.endswith(".gguf")
    return bool(named) and not Path(source).exists()


def _example(run: Path, receipt: receipts.Receipt, manifest: dict[str, Any]) -> CardExample:
    """The shortest test recording that has a question, with the codes of the run's cache; where there is none, codes to
    fill in.
    """
    from datamodules.store import chunks

    for folder in (run.parent / "cache", run_folder(from_plain(receipt["stage"], receipt["conf"]), "cache")):
        cache = receipts.read(folder)
        if cache is None or cache["artifact_hash"] != receipt["parents"].get("cache"):
            continue
        cuts = sorted(chunks.read(folder / "chunks").of_split("test"), key=lambda cut: len(cut.custom["codes"]))
        for cut in cuts:
            for supervision in cut.supervisions:
                if supervision.custom["task"] == "question":
                    of = f"the codes of {cut.id}, a test recording; the answer in the corpus: {supervision.custom['answer']}"
                    return CardExample(list(cut.custom["codes"]), supervision.custom["question"], " ".join(of.split()))
    fill = "put here the codes of your sound:   stage encode clip.wav --model DIR"
    return CardExample([0] * len(manifest["levels"]), "What do you hear?", fill)


def _code(manifest: dict[str, Any], example: CardExample) -> str:
    ltu, several = manifest["prompts"]["format"] == "ltu", max(manifest["levels"]) > 0
    system = manifest["prompts"]["system"]
    own = _is_not_on_hub(manifest["source"])
    head = MERGED
    if manifest["adapter"]:  # what the hub does not have is loaded as it was for the training
        call = (
            "load_language_model({0}, None, {1}).model"
            if own
            else "AutoModelForCausalLM.from_pretrained({0}, dtype={1})"
        )
        base = call.format(repr(manifest["source"]), repr(manifest["dtype"]))
        imported = "\nfrom stages.hub.weights import load_language_model\n" if own else ""
        head = ADAPTER.format(base=base, own=imported, size=manifest["size"])
    return head + ASK.format(
        of=example.of,
        codes=example.codes,
        question=json.dumps(example.question),
        name='f"<|sound_{levels[n % len(levels)]}_{code}|>"' if several else 'f"<|sound_{code}|>"',
        each=f"levels in [{manifest['levels']}] for n, code in enumerate(codes)" if several else "code in codes",
        system="" if ltu or system is None else json.dumps({"role": "system", "content": system}) + ", ",
        special=ltu,
        text_size=manifest["text_size"],
        size=manifest["size"],
    )


def _metrics(run: Path, receipt: receipts.Receipt) -> str:
    """What `evaluate` scored, where it was run, before the losses of the training."""
    lines = [
        f"- {key}: {value:.4g}" for key, value in receipt["metrics"].items() if value is not None and value == value
    ]
    scores = "Not evaluated on held-out sound."
    evaluated = receipts.read(run.parent / "evaluate")
    if evaluated is not None and evaluated["parents"].get(receipt["stage"]) == receipt["artifact_hash"]:
        report = run.parent / "evaluate" / "artifact" / "report.md"
        scores = re.sub(r"^#", "###", report.read_text().strip(), flags=re.MULTILINE)
    return "\n".join([scores, "", "### At the end of the training", "", *lines, ""])
