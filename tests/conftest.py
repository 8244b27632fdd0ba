"""A small corpus of real sound files, prepared as a user's own recordings are, and the smoke preset on it."""

import csv
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from tests import zygote

# What a cluster, a user or another framework has set is not seen by a test: jobs, ranks, endpoints, GPUs. The cache stays where the user has it.
INHERITED = re.compile(
    r"(SLURM|SBATCH|SRUN|MSN|STAGE|HF|HUGGINGFACE|TRANSFORMERS|TORCHELASTIC|PL)_"
    r"|((LOCAL|NODE|GROUP)_)?RANK$|(LOCAL_)?WORLD_SIZE$|MASTER_(ADDR|PORT)$"
)
KEPT = ("MSN_TESTS_", "MSN_AAC_METRICS")  # what the tests themselves read
USERS = Path.home()  # before the tests get a HOME of their own
CACHE = Path(os.environ.get("MSN_CACHE") or USERS / ".cache/make-some-noise").expanduser().absolute()
for name in [name for name in os.environ if INHERITED.match(name) and not name.startswith(KEPT)]:
    del os.environ[name]
os.environ |= {"MSN_CACHE": str(CACHE), "CUDA_VISIBLE_DEVICES": ""}

LINKED = (".pip", ".config/pip", ".netrc", ".gitconfig")  # how this user reaches a package index, and trusts a checkout
KINDS = {"low": 220.0, "high": 1760.0, "noise": 0.0}


def write_tones(root: Path, count: int) -> Path:
    """`count` recordings of a low tone, a high tone or noise, 0.7 to 5.5 s, of several formats and rates; returns the CSV."""
    root.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        rate = (44100, 22050, 16000)[index % 3]
        times = np.arange(int(rate * (0.7 + 4.8 * index / count))) / rate
        sound = generator.normal(size=len(times)) if kind == "noise" else np.sin(2 * np.pi * KINDS[kind] * times)
        sound = 0.3 * sound / np.abs(sound).max()
        name = f"{index:02d}.{('wav', 'flac', 'ogg')[index % 3]}"
        soundfile.write(root / name, np.stack([sound, sound], 1) if index % 2 else sound, rate)
        split = ("train", "train", "train", "validation", "test", "train")[index % 6 if index < 18 else index % 5]
        rows.append(
            {
                "path": name,
                "caption": f"a {kind} sound",
                "label": kind,
                "question": "Is it noise?",
                "answer": "yes" if kind == "noise" else "no",
                "split": split,
            }
        )
        rows.append({**rows[-1], "caption": "", "question": "", "answer": ""})
    with (root / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "metadata.csv"


@pytest.fixture(autouse=True, scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """HOME of the tests and of all that they start: empty but for what the package index needs."""
    folder = tmp_path_factory.mktemp("home")
    for name in LINKED:
        if (USERS / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).symlink_to(USERS / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test stands in a folder of its own: what lies where pytest was started is not read, and nothing is left there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, made by the worker that comes first; the others wait for it."""
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


def save_llm_of_words(folder: Path, words: Sequence[str]) -> Path:
    """A small random LLM whose tokens are whole words, behind a space, and one for all else."""
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(WordLevel({"<|end|>": 0} | {f"Ġ{word}": n + 1 for n, word in enumerate(words)}, "<|end|>"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words) + 1, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(shared: Path) -> Path:
    """recordings/ and data/ with the corpus `tones`, of all workers: to be read only."""

    def make(folder: Path) -> None:
        from stages.cli.main import main

        metadata = write_tones(folder / "recordings", 24)
        words = ["prepare", "folder", str(metadata.parent), "--metadata", str(metadata), "--name", "tones"]
        assert main([*words, f"--data.root={folder / 'data'}"]) == 0

    return make_once(shared / "prepared", make)


@pytest.fixture(scope="session")
def tones(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in, with the corpus `tones` prepared in data/ and nothing run yet."""
    return shutil.copytree(prepared, tmp_path_factory.mktemp("tones"), dirs_exist_ok=True)


@pytest.fixture(scope="session")
def whole_of_all_workers(prepared: Path, shared: Path) -> Path:
    """`stage run all`, of all workers: runs/whole/, and printed.txt with what it printed."""

    def make(folder: Path) -> None:
        shutil.copytree(prepared, folder)
        ended = zygote.run(["run", "all", "--experiment=whole", *SMOKE], folder)
        assert ended.status == 0, ended.output
        (folder / "printed.txt").write_text(ended.stdout)

    return make_once(shared / "chain", make)


@pytest.fixture(scope="session")
def printed_by_run_all(whole_of_all_workers: Path) -> str:
    """What `stage run all` printed, when it made `whole`."""
    return (whole_of_all_workers / "printed.txt").read_text()


@pytest.fixture(scope="session")
def whole(whole_of_all_workers: Path, tones: Path) -> Path:
    """Every stage of the experiment `whole`, done."""
    return shutil.copytree(whole_of_all_workers / "runs/whole", tones / "runs/whole")


@pytest.fixture(scope="session")
def copy_of_whole(whole: Path) -> Callable[..., Path]:
    """copy_of_whole("mine", "latents", "tokenizer") -> the folder of the experiment `mine`, in which these stages are done; of no stage all are."""

    def copy(experiment: str, *stages: str) -> Path:
        for stage in stages or [path.parent.name for path in whole.glob("*/receipt.json")]:
            shutil.copytree(whole / stage, whole.with_name(experiment) / stage)
        return whole.with_name(experiment)

    return copy


@pytest.fixture
def stage(tones: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """The command, in that folder: stage("run", "tokenizer", "--experiment=x") -> exit status. A corpus is prepared in `apart`."""
    from stages.cli.main import main

    monkeypatch.chdir(tones)
    yield lambda verb, *words: main([verb, *words, *SMOKE])
    assert os.listdir(tones / "data") == ["tones"], "a corpus that stays takes recordings from the tests after it"


@pytest.fixture
def apart(tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in whose recordings/ and data/ may be changed, and others be prepared beside them."""
    for name in ("recordings", "data"):
        shutil.copytree(tones / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMOKE = ("--preset", "smoke", "--data.root=data", "--data.corpora=tones", "--threads=1")
