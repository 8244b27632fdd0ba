"""Our language stage beside trl's SFTTrainer and peft, on the CPU: training tokens a second, and answers a second.

    python -m tests.benchmarks.language --run runs/demo [--steps 8] [--turns 3] [--questions 64] [--only training|answers]

--run: a finished demo, for its codes, its conversations and its trained adapter. Needs `pip install -e '.[demo,benchmarks]'`.

Training: the same LLM, LoRA (rank 16, all linear layers), questions of the demo, precision and optimizer; the peer's vocabulary is extended the usual way
(resize_token_embeddings, LoraConfig's trainable_token_indices), with gradient checkpointing off and a fixed number of questions a batch, padded: as many as
our token budget holds on average. Both run their own Trainer, in turns; counted are tokens that are no padding, each question's as it stands alone, whether
it is computed alone or shares its sound with others (`questions_together`). Ours weighs audio tokens and has z-loss besides.

Answers: the demo's trained adapter on held-out questions, in batches as `evaluate` makes them, against one `generate` a question on the same weights in a
plain model of transformers and peft; the share of equal answers is printed.

Both on one thread; seconds are the process' own (time.process_time), so that what else runs on the machine counts for little.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer

from conf import compose
from datamodules.evaluation_items import EvaluationDataModule, question_items
from datamodules.store import chunks
from models.language.vocabulary import Turn
from stages.engine.runner import _quiet
from stages.hub import artifacts
from stages.hub.weights import load_language_model
from stages.language import Language
from stages.runs import graph


class Speed(NamedTuple):
    useful: int  # tokens that are no padding, each question alone
    computed: int  # tokens that went through the LLM, padding and all
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=None, help="questions a batch of evaluate; else the demo's")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--only", choices=["training", "answers"])
    parser.add_argument("--preset", default="demo", help="of every stage")
    options = parser.parse_args()
    _quiet()
    torch.set_num_threads(1)
    if options.only != "answers":
        training(options)
    if options.only != "training":
        answers(options)


def stage(options: argparse.Namespace, *words: str) -> Language:
    """The demo's `openaqa` on the parents of a finished run, with questions alone."""
    given = [f"parents.{name}={options.run / name}" for name in ("tokenizer", "latents", "cache", "caption")]
    given += ["threads=1", "mixture.text=0", f"trainer.precision={options.precision}"]
    conf = compose("openaqa", [options.preset], [], [*given, *words]).conf
    parents = graph.parents("openaqa", conf)
    return Language("openaqa", conf, {name: parents[name] for name in ("tokenizer", "cache")}, options.run)


def training(options: argparse.Namespace) -> None:
    ours = {
        "ours, a question a sequence": stage(options, "batching.questions_together=1"),
        "ours, 6 questions share a sound": stage(options),
    }
    one = ours["ours, a question a sequence"]
    mean = float(one.data.train_items[0].lengths.mean())
    size = round(one.conf.batching.tokens_per_batch / mean)
    ways = {name: _our_trainer(module, options.steps) for name, module in ours.items()}
    ways[f"trl SFTTrainer + peft, {size} a batch"] = _peer_trainer(one, size, options.steps)
    results: dict[str, list[Speed]] = {name: [] for name in ways}
    for turn in range(options.turns + 1):
        for name, way in ways.items():
            speed = way()
            if turn:
                results[name].append(speed)
    print(
        f"{options.turns} turns of {options.steps} steps, one thread, {one.conf.trainer.precision}, {mean:.0f} tokens a "
        f"question, {one.conf.batching.tokens_per_batch} a batch of ours"
    )
    rates = {
        name: statistics.median(speed.useful / speed.seconds for speed in speeds) for name, speeds in results.items()
    }
    print("| training | useful tokens a second | turns | computed tokens for one useful | ratio to the peer |")
    print("|---|---|---|---|---|")
    for name, speeds in results.items():
        turns = ", ".join(f"{speed.useful / speed.seconds:.0f}" for speed in speeds)
        share = sum(speed.computed for speed in speeds) / sum(speed.useful for speed in speeds)
        print(f"| {name} | {rates[name]:.0f} | {turns} | {share:.2f} | {rates[name] / list(rates.values())[-1]:.2f} |")


def _our_trainer(module: Language, steps: int) -> Callable[[], Speed]:
    """The stage's own module, data and Trainer's settings. The first step warms up."""
    useful = {
        item.id: sum(len(talk.input_ids) for talk in module.encode(item.dialogues))
        for item in module.data.train_items[0]
    }
    seen = 0

    class Clock(L.Callback):
        def on_train_batch_end(self, trainer: Any, _: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                self.begun, self.speed = time.process_time(), Speed(0, 0, 0.0)
            else:
                tokens = self.speed.useful + sum(useful[name.split("_dup")[0]] for name in batch.ids)
                computed = self.speed.computed + batch.positions
                self.speed = Speed(tokens, computed, time.process_time() - self.begun)

    def way() -> Speed:
        nonlocal seen
        seen += 1
        module.data = copy.copy(module.data)
        module.data.seed = seen  # other batches each turn
        clock = Clock()
        trainer = L.Trainer(
            max_steps=steps + 1, accelerator="cpu", devices=1, precision=module.conf.trainer.precision,
            gradient_clip_val=module.conf.trainer.gradient_clip_val, logger=False, callbacks=[clock],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False, limit_val_batches=0, inference_mode=False,
        )  # fmt: skip
        trainer.fit(module, datamodule=module.datamodule())
        return clock.speed

    return way


def _peer_trainer(module: Language, size: int, steps: int) -> Callable[[], Speed]:
    model, tokenizer = load_language_model(module.conf.model.source, None, module.conf.model.dtype)
    words = module.vocabulary
    model.resize_token_embeddings(words.size, mean_resizing=False)
    lora = module.conf.lora
    adapter = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear",
        trainable_token_indices={"embed_tokens": list(words.new_ids)}, task_type="CAUSAL_LM",
    )  # fmt: skip
    rows = []
    for item in module.data.train_items[0]:
        for encoded in module.encode(item.dialogues):
            rows.append({"input_ids": list(encoded.input_ids), "labels": list(encoded.labels)})
    dataset = Dataset.from_list(rows)
    seen, built = 0, get_peft_model(model, adapter)
    built.get_output_embeddings().bias = None  # trl 1.16 asks for it, and the wrapper of peft 0.21 has none

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.shapes: list[tuple[int, int]] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 1:
                self.begun = time.process_time()
            self.seconds = time.process_time() - self.begun

    def way() -> Speed:
        nonlocal seen
        seen += 1
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            settings = SFTConfig(
                output_dir=folder, max_steps=steps + 1, per_device_train_batch_size=size, use_cpu=True, seed=seen,
                learning_rate=module.conf.optimizer.learning_rate, bf16=module.conf.trainer.precision != "32-true",
                gradient_checkpointing=False, max_length=None, report_to="none", save_strategy="no", disable_tqdm=True,
                logging_strategy="no", dataloader_num_workers=0, dataloader_pin_memory=False,
            )  # fmt: skip
            trainer = SFTTrainer(built, settings, train_dataset=dataset, processing_class=tokenizer, callbacks=[clock])
        collate = trainer.data_collator

        def counted(examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = collate(examples)
            clock.shapes.append((int(batch["attention_mask"].sum()), batch["input_ids"].numel()))
            return batch

        trainer.data_collator = counted
        trainer.train()
        shapes = clock.shapes[1 : steps + 1]
        return Speed(sum(shape[0] for shape in shapes), sum(shape[1] for shape in shapes), clock.seconds)

    return way


def answers(options: argparse.Namespace) -> None:
    module = stage(options)
    language, words = module.language.eval(), module.vocabulary
    _, state = artifacts.load(options.run / "openaqa/artifact")
    language.load_trainable_state(state)
    conf = compose("evaluate", [options.preset]).conf
    cuts = [cut for cut in chunks.read(options.run / "cache/chunks") if cut.custom["split"] == "test"]
    asked = [
        item for item in question_items(cuts, options.questions // 4, module.conf.kinds) if item.condition == "sound"
    ]
    asked = asked[: options.questions]
    size = options.batch or conf.batch_size
    data = EvaluationDataModule(asked, set(), size)
    plain = _plain(module, state)
    room = conf.max_new_tokens

    def prompt(item: Any) -> list[int]:
        return words.render([Turn(role, segments) for role, segments in item.turns], generate=True).input_ids

    def batched() -> dict[str, str]:
        results = {}
        for batch in data.batches:
            prompts = [prompt(items[0]) for items in batch]
            width = max(map(len, prompts))
            ids = torch.tensor([[words.pad_id] * (width - len(ids)) + ids for ids in prompts])
            mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
            with _autocast(module):
                written = language.generate(ids, mask, room, allow="text")
            for items, answer in zip(batch, written, strict=True):
                results |= {item.id: words.decode(answer) for item in items}
        return results

    def one_by_one() -> dict[str, str]:
        results = {}
        for item in asked:
            ids = torch.tensor([prompt(item)])
            with torch.no_grad(), _autocast(module):
                row = plain.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=room, do_sample=False,
                    eos_token_id=words.stop_ids, pad_token_id=words.pad_id,
                )[0, ids.shape[1] :].tolist()  # fmt: skip
            results[item.id] = words.decode([token for token in row if token < words.text_size])
        return results

    ways = {f"ours, {size} a batch": batched, "transformers + peft, one at a time": one_by_one}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    written: dict[str, dict[str, str]] = {}
    for _ in range(options.turns):
        for name, way in ways.items():
            begun = time.process_time()
            written[name] = way()
            seconds[name].append(time.process_time() - begun)
    one, other = written.values()
    same = sum(one[name] == other[name] for name in one) / len(one)
    print(f"{len(asked)} questions, {sum(map(len, data.batches))} different prompts, equal answers {100 * same:.0f} %")
    print("| answers | a second | turns | ratio |")
    print("|---|---|---|---|")
    rates = {name: len(asked) / statistics.median(results) for name, results in seconds.items()}
    for name, results in seconds.items():
        turns = ", ".join(f"{len(asked) / second:.2f}" for second in results)
        print(f"| {name} | {rates[name]:.2f} | {turns} | {rates[name] / list(rates.values())[-1]:.2f} |")


def _autocast(module: Language) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=module.conf.trainer.precision != "32-true")


def _plain(module: Language, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The same weights as a user of transformers and peft holds them: one resized matrix, LoRA beside it."""
    model, _ = load_language_model(module.conf.model.source, None, module.conf.model.dtype)
    words, lora = module.vocabulary, module.conf.lora
    model.resize_token_embeddings(words.size, mean_resizing=False)
    rows = next(tensor for name, tensor in state.items() if name.endswith("new_rows"))
    with torch.no_grad():
        model.get_input_embeddings().weight[words.text_size :] = rows
    adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    built = get_peft_model(model, adapter)
    weights = {f"base_model.model.{name}": tensor for name, tensor in state.items() if "lora_" in name}
    assert not built.load_state_dict(weights, strict=False).unexpected_keys
    return built.eval()


if __name__ == "__main__":
    main()
