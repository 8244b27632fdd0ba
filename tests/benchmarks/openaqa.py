"""`stage prepare openaqa` on records made as LTU's: records a second, peak memory, found and missing.

    python -m tests.benchmarks.openaqa [--records 1000000] [--clips 150000] [--missing 0.1] [--folder FOLDER]

The clips stand in a prepared corpus `audioset` whose cuts are written here (one tone, named once for each clip: joining looks at no sound). A tenth of the
records is about clips that are not there. The command runs in a process of its own; its peak memory is what the system counted.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from datamodules.corpora import writer
from datamodules.corpora.inspect import Inspection

TASKS = ("cla_label", "cla_label_des", "temporal_single", "open-ended question", "caption")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=150_000)
    parser.add_argument("--missing", type=float, default=0.1)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        measure(Path(folder), arguments.records, arguments.clips, arguments.missing)


def measure(folder: Path, records: int, clips: int, missing: float) -> None:
    corpus(folder / "data" / "audioset", clips)
    file = folder / "openaqa.json"
    with file.open("w") as stream:
        stream.write("[\n")
        for number, record in enumerate(generate(records, clips, missing)):
            stream.write((",\n" if number else "") + json.dumps(record, indent=1))
        stream.write("\n]\n")
    command = [
        sys.executable,
        "-m",
        "stages.cli.main",
        "prepare",
        "openaqa",
        str(file),
        "--data.on_bad=skip",
        f"--data.root={folder / 'data'}",
    ]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    receipt = json.loads((folder / "data" / "openaqa" / "receipt.json").read_text())
    given = receipt["datasets"]["as_2m"]
    print(
        f"records {records:,} ({file.stat().st_size / 1e6:.0f} MB) about {clips:,} clips and as many that are missing as chance names"
    )
    print(
        f"seconds {seconds:.1f} by the clock, {used.ru_utime + used.ru_stime:.1f} of the processor; {records / seconds:,.0f} records a second"
    )
    print(f"peak memory {used.ru_maxrss / 1024:.0f} MiB")
    print(
        f"found {given['found']:,}, missing {given['missing']:,}, said twice {receipt['repeated']:,}, cuts {receipt['recordings']:,}"
    )


def generate(records: int, clips: int, missing: float) -> Iterator[dict[str, str]]:
    """Shuffled, as OpenAQA is: the questions about a clip lie anywhere."""
    chance = random.Random(0)
    for number in range(records):
        gone = chance.random() < missing
        clip = f"{'-' if gone else '_'}{chance.randrange(clips):010d}"
        task = TASKS[number % len(TASKS)]
        answer = (
            f"Label(s): dog; bell {number % 500}"
            if task == "cla_label"
            else f"It is a sound of the kind {number}, " + "and so on " * 12
        )
        yield {
            "instruction": f"Closed-ended question: What is heard in this recording, asked for the {number}th time?",
            "input": "",
            "audio_id": f"/data/sls/audioset/dave_version/audio/{clip}.flac",
            "dataset": "as_2m",
            "task": task,
            "output": f"Audio caption: {answer}" if task == "caption" else answer,
        }


def corpus(out: Path, clips: int) -> None:
    with writer.cut_writer(out) as add:
        for number in range(clips):
            clip = f"_{number:010d}"
            custom = {
                "split": "train",
                "corpus": "audioset",
                "source": f"youtube:{clip}",
                "origin": f"youtube:{clip}",
                "clip": clip,
                "labels": [],
            }
            inspected = Inspection(f"{clip}.flac", None, 10.0, 1, 16000, 160000, 1, None)
            add(writer.make_cut(writer.AnnotatedRecording(f"audioset-{clip}", f"{clip}.flac", custom, []), inspected))
    (out / "receipt.json").write_text(json.dumps({"root": str(out.resolve())}))


if __name__ == "__main__":
    main()
