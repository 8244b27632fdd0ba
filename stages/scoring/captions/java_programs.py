"""The two Java programs behind COCO's caption scores, each in a process that always ends: the PTB tokenizer and METEOR
1.5 (Denkowski and Lavie 2014).

The jars are those of the package pycocoevalcap 1.2. Its own clients put captions on other clips at a carriage return or
a Unicode line break, split a reference at "|||", and never end after a newline or in a locale that writes 0,5; these
give the same numbers on every other input.
"""

import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.errors import UsageError

PTB = "stanford-corenlp-3.4.1.jar"
METEOR = "meteor-1.5.jar"
LOCALE = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
)  # 0.5 and not 0,5, whatever the machine speaks
PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)  # that COCO's evaluation leaves out


def one_line(text: str) -> str:
    """A caption without anything that Java's readers take for the end of a line or of a field."""
    return " ".join(text.encode("utf-8", "replace").decode().replace("|||", " ").split())


def tokenize(jar: Path, texts: Sequence[str], seconds: float = 600) -> list[str]:
    """Penn Treebank tokens in lower case, joined by blanks, without punctuation: one line for each text, an empty one
    for an empty text.

    jar: stanford-corenlp-3.4.1.jar. Raises UsageError where Java is missing, fails or takes longer than `seconds`.
    """
    if not texts:
        return []
    command = [
        "java",
        *LOCALE,
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    lines = [one_line(text) for text in texts]
    try:
        done = subprocess.run(command, input="\n".join([*lines, ""]).encode(), capture_output=True, timeout=seconds)
    except OSError as error:
        raise UsageError(
            f"the PTB tokenizer did not start: {error}. Type   apt-get install default-jre-headless"
        ) from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"the PTB tokenizer did not end within {seconds:.0f} s for {len(texts)} captions") from None
    tokenized = done.stdout.decode().split("\n")[:-1]
    if done.returncode or len(tokenized) != len(lines):
        raise UsageError(
            f"the PTB tokenizer gave {len(tokenized)} lines for {len(lines)} captions: {last_lines(done.stderr)}"
        )
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION) for line in tokenized]


class Meteor:
    """METEOR 1.5, English, its default parameters, as a context: `with Meteor(jar) as meteor: meteor.counted(...)`."""

    def __init__(self, jar: Path, seconds: float = 300) -> None:
        """jar: meteor-1.5.jar with data/paraphrase-en.gz beside it; seconds: the longest wait for one line."""
        self.jar, self.seconds = jar, seconds

    def __enter__(self) -> "Meteor":
        command = ["java", *LOCALE, "-Xmx2G", "-jar", self.jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
        pipe: Any = subprocess.PIPE
        try:
            self.process = subprocess.Popen(command, cwd=self.jar.parent, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise UsageError(f"METEOR did not start: {error}. Type   apt-get install default-jre-headless") from None
        self.lines: queue.Queue[bytes] = queue.Queue()
        self.errors: list[bytes] = []
        for source, take in ((self.process.stdout, self.lines.put), (self.process.stderr, self.errors.append)):
            threading.Thread(target=_drain, args=(source, take), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def counted(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
        """captions and references as `tokenize` gives them -> METEOR's counts of each caption; the corpus' score is a
        function of their sums.
        """
        stats = []
        for caption, texts in zip(captions, references, strict=True):
            self._send(" ||| ".join(["SCORE", *map(one_line, texts), one_line(caption)]))
            stats.append(self._line())
        return stats

    def evaluate(self, stats: Sequence[str]) -> tuple[float, list[float]]:
        """Counts of each caption -> the score of their sum, and of each."""
        if not stats:
            return float("nan"), []
        self._send(" ||| ".join(["EVAL", *stats]))
        scores = [float(self._line()) for _ in stats]
        return float(self._line()), scores

    def _send(self, line: str) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{line}\n".encode())
            self.process.stdin.flush()
        except OSError:
            raise self._ended() from None

    def _line(self) -> str:
        try:
            line = self.lines.get(timeout=self.seconds)
        except queue.Empty:
            raise UsageError(f"METEOR did not answer within {self.seconds:.0f} s") from None
        if not line:
            raise self._ended()
        return line.decode().strip()

    def _ended(self) -> UsageError:
        self.process.wait()
        for _ in range(100):  # until its errors are read to their end, which is empty
            if self.errors and not self.errors[-1]:
                break
            time.sleep(0.05)
        return UsageError(f"METEOR ended by itself: {last_lines(b''.join(self.errors))}")


def _drain(source: Any, take: Any) -> None:
    for line in source:
        take(line)
    take(b"")


def last_lines(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "no message"
