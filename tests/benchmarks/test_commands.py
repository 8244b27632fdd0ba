"""Every benchmark runs to its end, at its smallest: what it measures is not asserted."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import zygote
from tests.conftest import make_once, save_llm_of_words, write_tones

ROOT = Path(__file__).parents[2]
SMALL = "--set quantizer.codebook_size=16 --set quantizer.code_dim=4 --set quantizer.reservoir_size=16"
COMMANDS = {  # name -> its smallest arguments, and what it prints
    "ablation": (f"--preset smoke --latents small --steps 2 --change MSE {SMALL}", "| MSE |"),
    "abstention": (
        "--preset smoke --tokens runs/small --steps 2 --questions 4 --coverage 50",
        "| without, without the sound | ",
    ),
    "archives": ("--clips 24 --per-shard 8", "| tars | latents |"),
    "batching": ("--run runs/small/openaqa --batches 1 2 --tokens 1 --repeats 1", "| 2 |"),
    "cache": ("--recordings 4 --seconds 1 --turns 1 --threads 1", "loop / ours, own"),
    "codebook": (f"--preset smoke --seeds 1 --steps 2 {SMALL}", "without silence"),
    "decoder_finetuning": (
        "--preset smoke --experiment small --clips 2 --steps 1 2 --embedder logmel-64 --speed-repeats 1 --set trainer.max_steps=2",
        "| after | 2 |",
    ),
    "fewshot": (
        "--preset smoke --latents toned --corpus tones --llm llm --words 8 --ways 2 --shots 1 --episodes 3 --seconds 2"
        " --ask splits=[train,validation,test] --taught 2 --caption-steps 1 --teach prompts.format=ltu --teach data.corpora=[tones] --teach examples.shots=1",
        "| lexical_residual | taught-2 | 2 | 1 | ",
    ),
    "interruptions": ("--stages tokenizer --signals TERM --workers 0 --ranks 1 --moments 1", "equal 1/1"),
    "kills": ("--moments 1 --processes 1 --recordings 4", ""),
    "language": ("--preset smoke --run runs/small --steps 1 --turns 1 --questions 8", "| trl SFTTrainer + peft,"),
    "language_losses": (
        f"--preset smoke --latents small --seeds 2 --rows none all --steps 2 --lm-steps 2 {SMALL} --set language_losses.texts_from=random:tiny"
        " --openaqa-steps 2 --caption-steps 1 --sound-steps 2 --questions 2",
        "| all | 0 | instrument ",
    ),
    "language_memory": ("--vocabulary 9000 --tokens 8 --dim 16 --runs 1 --steps 1", ""),
    "latent_loading": ("--entries 1000 --batches 2 --batch-size 8", "| 1,000 | 1 |"),
    "loading": (
        "--entries 1000 --distinct 1000 --model random:tiny --batches 2 --processes 1 --measuring 0 --workers 1",
        "first start",
    ),
    "localisation": (
        "--preset smoke --tokens runs/small --steps 2 --scenes 16 --questions 8 --change both",
        "| both, seed 0 | 10 | ",
    ),
    "lora": (
        "--preset smoke --tokens small --seeds 1 --caption-steps 1 --steps 1 --questions 1 --ranks 8",
        "what, with the sound",
    ),
    "minimal_pairs": (
        "--runs runs/small/openaqa --questions 1 --axes wordings exchanged louder",
        "| runs/small/openaqa | 0 | louder | 1 | ",
    ),
    "new_rows": ("--preset smoke --run runs/small --steps 1 --batches 1", "| codebook |"),
    "openaqa": ("--records 2000 --clips 300", "peak memory"),
    "place": (
        "--preset smoke --scenes 24 --codecs stereo oobleck --rates own kbps_1 --ask stereo/own --codes 16 --vae-steps 4"
        " --tokenizer-steps 2 --caption-steps 1 --steps 2 --questions 4 --set quantizer.reservoir_size=16"
        " --set-vae spectral.perceptual_weighting=false",
        "| stereo | 5.4 | 0.022 | LLM, with_sound | ",
    ),
    "plan_memory": ("", "| generation, KV cache, bfloat16 |"),
    "prefixes": ("--run runs/small --after openaqa --best_of 2 --prune 3x1x2 --captions 2", "| 3x1x2 |"),
    "presence": ("--runs runs/small/openaqa --scenes 2 --others 2 --strengths 1", "| runs/small/openaqa | 1 |"),
    "quantizer": ("--repeats 1 --clips 4", "| ours |"),
    "rates": (
        "--preset smoke --steps 2 --clips 4 --codes 16 --rates base native --embedder logmel-64"
        " --set quantizer.reservoir_size=16",
        "| native |",
    ),
    "reading": ("", "whole_word"),
    "running_average": ("--steps 2 --width 16 --batch-size 2", ""),
    "scaling": ("runs/small --stages tokenizer --steps 6", "| tokenizer | 2 |"),
    "serving": (
        "--experiment small --clips data --distinct 3 --requests 6 --clients 3 --max-tokens 4",
        "| lost | 0 | 0 |",
    ),
    "table_one": (f"--preset smoke --seeds 1 --steps 2 --clips 4 --embedder logmel-64 {SMALL}", "| linear probe |"),
    "text_stays": ("--runs small", "| small | openaqa |"),
    "throughput": ("--size tiny --batch 1 --frames 8 --steps 1", ""),
    "voice": (
        "--preset smoke --run runs/small --start openaqa --steps 2 --points 2 --captions 2 --sweep --change likelihood"
        " --draw guidance=4 best_of=2",
        "| 1 |  | 4 | 2 | ",
    ),
    "vocoder": (
        "--preset smoke --clips 1 --fit 4 --iterations 1 --head-steps 2 --embedder logmel-64 --images pictures",
        "| head |",
    ),
    "windows": ("--seconds 1 --rates 16000", "| 1 | 16000 |"),
}
PEERS = {
    "language": "trl",
    "quantizer": "vector_quantize_pytorch",
    "serving": "fastapi",
    "throughput": "diffusers",
}


def test_every_benchmark_is_tested():
    pages = (ROOT / "README.md", ROOT / "tests/benchmarks/README.md")
    named = {name for page in pages for name in re.findall(r"python -m tests\.benchmarks\.(\w+)", page.read_text())}
    files = {path.stem for path in Path(__file__).parent.glob("[a-z]*.py")} - {"chain"}
    tested_beside = {name.removeprefix("test_") for name in files if name.startswith("test_")}
    files = {name for name in files if not name.startswith("test_")}
    assert named <= files and files - tested_beside == COMMANDS.keys()


@pytest.fixture(scope="session")
def chain(shared: Path) -> Path:
    """A folder with data/diagnostic, data/tones, the experiment `small`, every stage of the smoke preset done, `toned`, the
    latents of tones, and `llm`, which has words.
    """

    def make(folder: Path) -> None:
        folder.mkdir()
        words = ["run", "all", "--preset", "smoke", "--data.root=data", "--experiment=small", "--threads=1"]
        ended = zygote.run(words, folder)
        assert ended.status == 0, ended.output
        table = write_tones(folder / "recordings", 24)
        words = [
            "prepare",
            "folder",
            str(table.parent),
            "--metadata",
            str(table),
            "--name",
            "tones",
            "--data.root=data",
        ]
        toned = ["run", "latents", "--preset=smoke", "--data.root=data", "--experiment=toned", "--data.corpora=[tones]"]
        for more in (words, [*toned, "--threads=1"]):
            ended = zygote.run(more, folder)
            assert ended.status == 0, ended.output
        save_llm_of_words(folder / "llm", list("abcdefghijklmnopqrstuvwx"))

    return make_once(shared / "benchmarks", make)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_runs(name: str, chain: Path):
    if name in PEERS:
        pytest.importorskip(PEERS[name], reason=f"{PEERS[name]} is not installed: pip install -e '.[benchmarks,serve]'")
    arguments, printed = COMMANDS[name]
    run = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", *shlex.split(arguments)],
        cwd=chain,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=600,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert printed in run.stdout
