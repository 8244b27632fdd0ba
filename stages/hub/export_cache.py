"""`stage export cache` and `stage export latents`: codes or latents in a format of the field, so that others train on
them. No torch here.

    DIR/facts.json      what made them: token rate, codebook, quantiser, sample rate, hashes
    DIR/README.md       how they are opened, in five lines
    DIR/train/ ...      Lhotse Shar, or DIR/data/*.parquet (datamodules/store/shards.py)

It is written as `.DIR.part` and renamed when it is whole: after a kill or a full disk the same command goes on with the
shards that are missing.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from callbacks.progress import ProgressLine
from conf import from_plain
from conf.errors import UsageError
from datamodules.atomic_files import write_whole
from datamodules.store import chunks
from datamodules.store.shards import Shard, plan_shards, write_parquet, write_shar
from stages.runs import receipts
from stages.runs.state import run_folder

Format = Literal["shar", "parquet"]
FACTS = "facts.json"
ARRAYS = {"cache": "codes", "latents": "latents"}  # stage -> what it makes
SHAR = """\
from lhotse import CutSet

for cut in CutSet.from_shar(in_dir="{split}"):
    {name} = cut.load_{name}()
    captions = [supervision.text for supervision in cut.supervisions if supervision.text]
"""
PARQUET = """\
import pyarrow.parquet as pq

table = pq.read_table("data", columns=["split", "captions", "{name}"])
for row in table.to_pylist():
    {name}, captions = row["{name}"], row["captions"]
"""


def check_target(to: Path, shard_size: int, kind: Format) -> None:
    """Raises UsageError where an export may not be written."""
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UsageError(f"--to {to} exists and is not empty; choose another folder, or remove it")
    if shard_size < 1:
        raise UsageError(f"--shard-size {shard_size}: recordings in a shard, at least 1")
    if kind == "shar" and "%" in str(to):
        raise UsageError(f"--to {to}: Lhotse takes % for the number of a shard; choose another name")


def export_cache(run: Path, to: Path, kind: Format, shard_size: int) -> int:
    """Writes the folder `to` from a finished run of `cache` or `latents`, whole or not at all -> recordings in it.

    shard_size: recordings in a shard, at most. Raises UsageError where `to` is not empty.
    """
    check_target(to, shard_size, kind)
    receipt = receipts.read(run)
    assert receipt is not None, "found by its receipt"
    cuts = chunks.read(run / "chunks")
    shards = plan_shards(cuts, shard_size)
    counts = Counter[str]()
    for shard in shards:
        counts[shard.split] += len(shard.rows)
    facts = _facts(run, receipt) | {
        "format": kind,
        "shard_size": shard_size,
        "recordings": dict(counts),
        "cuts": cuts.digest(),
    }
    part = to.with_name(f".{to.name}.part")
    _begin(part, facts)
    write: Callable[[Shard], None] = partial(write_shar, part, cuts)
    if kind == "parquet":
        write = partial(write_parquet, part, cuts, facts=facts)
    line, done = ProgressLine("export", len(cuts), "recordings"), 0
    line.start()
    try:
        for shard in shards:
            write(shard)
            line.update(done := done + len(shard.rows))
    finally:
        line.stop()
    write_whole(part / "README.md", _readme(facts, shards[0].split))
    part.rename(to)  # over an empty folder, too
    return done


def _begin(part: Path, facts: dict[str, Any]) -> None:
    """Keeps what an earlier start of the same export has written, and removes that of any other."""
    known = part / FACTS
    if part.is_dir() and not (known.is_file() and json.loads(known.read_text(encoding="utf-8")) == facts):
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    for unfinished in part.rglob(".part-*"):
        unfinished.unlink()
    write_whole(known, json.dumps(facts, indent=1))


def _facts(run: Path, receipt: receipts.Receipt) -> dict[str, Any]:
    """What somebody who trains on the codes or latents has to know."""
    facts: dict[str, Any] = {
        "holds": ARRAYS[receipt["stage"]],
        "made_by": f"{receipt['stage']} of the experiment {receipt['experiment']}",
        "artifact_hash": receipt["artifact_hash"],
        "parents": receipt["parents"],
        "corpora": receipt["corpora"],
        **receipt["facts"],
    }
    if receipt["stage"] == "latents":
        from safetensors.numpy import load_file

        statistics = load_file(run / "artifact/statistics.safetensors")
        facts |= {f"training_{name}": values.tolist() for name, values in statistics.items()}
        return facts
    tokenizer = receipts.read(run_folder(from_plain("cache", receipt["conf"]), "tokenizer"))
    if tokenizer is not None and tokenizer["artifact_hash"] == receipt["parents"]["tokenizer"]:
        facts["quantizer"] = tokenizer["conf"]["quantizer"]
    return facts


def _readme(facts: dict[str, Any], split: str) -> str:
    """split: one that has recordings."""
    name, is_shar = facts["holds"], facts["format"] == "shar"
    code = (SHAR if is_shar else PARQUET).format(name=name, split=split)
    counts = ", ".join(f"{count} {split}" for split, count in facts["recordings"].items())
    rows = {"recordings": counts, "made by": facts["made_by"]}
    rows |= {key.replace("_", " "): facts[key] for key in ("sample_rate", "hop_length", "frame_rate", "window_rule")}
    what = "The latents (F, D) float16 of each recording, time first, from a frozen VAE; not normalised."
    if name == "codes":
        rows |= {key.replace("_", " "): facts[key] for key in ("token_rate", "codebook_size", "levels", "bitrate")}
        rows["quantizer"] = facts.get("quantizer", {}).get("kind", "see the run")
        what = (
            "The codes of each recording, integers from 0 to codebook_size - 1, of a sound tokenizer. Where `levels` "
            "has L entries, every L codes are one block."
        )
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    text = "the columns captions, labels and questions" if not is_shar else "`supervisions` and `custom` of each cut"
    return f"""\
# Sound as {name}

{what} What is said about them is in {text}; all facts are in `{FACTS}`. The licences of the recordings and their text
go with them.

| | |
|---|---|
{table}

```python
{code}```
"""
