"""Text-only items without anybody's data: what the LLM itself writes, as JSONL for `text.files`.

    python -m tests.benchmarks.own_text --model smollm2-135m-instruct --count 300 --out own.jsonl

Half running text from one of the openings below, half answers to the instructions, sampled at temperature 1 from the LLM as it came:
training on them holds it to its own distribution (Robins 1995, pseudo-rehearsal). Seeded.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import torch

from stages import assets

OPENINGS = (
    "The", "In the", "When she", "There are many", "He said", "A", "It is", "First,", "This", "Last year", "If you", "Most people",
    "The reason", "We", "On a cold morning", "To make", "def", "Scientists", "My", "How",
)  # fmt: skip
TASKS = (
    "Explain {} to a child.", "Write a short story about {}.", "Give three facts about {}.", "Write a dialogue between two friends about {}.",
    "How does one learn about {}?", "Write a letter that mentions {}.",
)  # fmt: skip
TOPICS = (
    "bread", "the sea", "gravity", "trains", "a broken window", "bees", "chess", "winter", "computers", "a garden", "money", "sleep",
    "mountains", "the heart", "a lost key", "music", "rivers", "clocks", "paper", "friendship",
)  # fmt: skip


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--tokens", type=int, default=120, help="at most, of each")
    parser.add_argument("--batch", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model, tokenizer = assets.load_language_model(options.model, None, "float32")
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    torch.manual_seed(options.seed)
    asked = [task.format(topic) for topic, task in product(TOPICS, TASKS)]
    rows = []
    while len(rows) < options.count:
        chat = len(rows) // options.batch % 2
        texts = [
            (asked if chat else OPENINGS)[(len(rows) // 2 + n) % (len(asked) if chat else len(OPENINGS))]
            for n in range(options.batch)
        ]
        prompts = [_chat(tokenizer, text) if chat else text for text in texts]
        held = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=not chat)
        found = model.generate(
            **held, max_new_tokens=options.tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
        written = tokenizer.batch_decode(found[:, held.input_ids.shape[1] :], skip_special_tokens=True)
        for text, answer in zip(texts, written, strict=True):
            messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer.strip() or "."}]
            rows.append({"messages": messages} if chat else {"text": text + answer})
        print(f"{len(rows)} of {options.count}", flush=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows[: options.count]))


def _chat(tokenizer: object, text: str) -> str:
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
