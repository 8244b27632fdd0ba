"""Local tasks that lmms-eval reads, and the answers that it keeps."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
LABELS = ["high", "low", "noise"]
TASK = """task: {task}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: {output}
doc_to_visual: !function parts.sounds
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{target}}}}"
{rest}
"""
PARTS = """def sounds(doc):
    return [doc["path"]]


def exact(doc, results):
    from stages.scoring.exact_match import is_right

    return {"accuracy": float(is_right(results[0], doc["target"]))}
"""
WRITTEN = """process_results: !function parts.exact
generation_kwargs: {max_new_tokens: 8, do_sample: false}
metric_list: [{metric: accuracy, aggregation: mean, higher_is_better: true}]"""
CHOSEN = f"""doc_to_choice: {json.dumps(LABELS)}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]"""


def local_tasks(folder: Path, questions: list[dict[str, Any]], labels: list[dict[str, Any]]) -> Path:
    """Two tasks of local sounds: questions with an answer that is written, and a label by its likelihood."""
    folder.mkdir()
    (folder / "parts.py").write_text(PARTS)
    for task, documents, output, rest in (
        ("local_questions", questions, "generate_until", WRITTEN),
        ("local_labels", labels, "multiple_choice", CHOSEN),
    ):
        data = folder / f"{task}.jsonl"
        data.write_text("\n".join(map(json.dumps, documents)))
        (folder / f"{task}.yaml").write_text(TASK.format(task=task, data=data, output=output, rest=rest))
    return folder


def answers_of(out: Path, task: str) -> list[Any]:
    """What it took from the model, document by document."""
    (samples,) = out.rglob(f"*_samples_{task}.jsonl")
    lines = {line["doc_id"]: line["filtered_resps"] for line in map(json.loads, samples.read_text().splitlines())}
    return [lines[number] for number in range(len(lines))]
