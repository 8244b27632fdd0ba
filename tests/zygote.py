"""Processes of `stage` that begin at once: forked from a process that has imported torch and the stages, which else costs 6 s of processor each.

    tests                        zygote                                   a process of `stage`
    run(["run", "vae"], place)   waits: all is imported, nothing run  ->  before(), main(words), exit
                                                                           |- waits until it is needed, as another rank or a stage of `all`

A forked process is as a new one: it has a session, a folder, an environment, stdout and stderr, and its random numbers have been drawn by nobody. What it
starts by `python -m stages.cli.main` (the other ranks, the stages of `all`) is forked too, from children that were set aside before the command began,
so that their parent is the one that they know and their state is new. Only the seed of `hash` is that of the zygote.
"""

import atexit
import contextlib
import gc
import importlib
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar, NamedTuple, NoReturn

ROOT = Path(__file__).parents[1]
COMMAND = "stages.cli.main"  # what `python -m` runs, and what is forked in its place
IMPORTED = (  # what the stages import when they run
    "lightning.pytorch.loggers.tensorboard",
    "peft",
    "torch.utils.tensorboard",
    "transformers.models.llama.modeling_llama",
)

spent = 0.0  # processor seconds of the processes that have ended, and of their children


class Request(NamedTuple):
    words: list[str] | None
    folder: str
    environment: dict[str, str]
    before: Callable[[], object] | None


class Ended(NamedTuple):
    status: int  # as Popen.returncode: -9 after SIGKILL
    stdout: str
    stderr: str
    pid: int

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def survivors(self) -> list[int]:
        """Processes that it started, at whatever remove, and that still run."""
        return _session(self.pid)


class Process:
    """A process that was started: `wait` for its end."""

    def __init__(self, reply: socket.socket, files: Sequence[IO[bytes]]) -> None:
        self.reply, self.files = reply, files
        self.pid = int(reply.recv(64))

    def running(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.reply, selectors.EVENT_READ)
            return not selector.select(0)

    def wait(self) -> Ended:
        """Its end, and for a minute that of all that it started."""
        global spent
        answer = self.reply.recv(64)
        self.reply.close()
        assert answer, "the zygote has ended"
        status, seconds = answer.decode().split()
        spent += float(seconds)
        end = time.monotonic() + 60
        while _session(self.pid) and time.monotonic() < end:
            time.sleep(0.05)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode())
            file.close()
        return Ended(int(status), texts[0], texts[1], self.pid)


def _session(leader: int) -> list[int]:
    """The pids of a session, by that of its leader, without those that wait to be reaped."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                pids.append(int(path.parent.name))
    return pids


def run(words: Sequence[str], folder: Path, before: Callable[[], object] | None = None, **environment: str) -> Ended:
    """`stage WORDS` in `folder`, to its end; see `start`."""
    return start(words, folder, before, **environment).wait()


def start(
    words: Sequence[str] | None, folder: Path, before: Callable[[], object] | None = None, **environment: str
) -> Process:
    """Starts `stage WORDS` in `folder`; where `words` is None the process is over with `before`.

    before: a function of a module, or a partial of one, that is called in the process, and in those that it starts, before the command.
    environment: variables beside those of this process.
    """
    request = Request(None if words is None else list(words), str(folder), dict(os.environ) | environment, before)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  closed at the end
    with theirs, tempfile.TemporaryFile() as content:
        pickle.dump(request, content)
        content.flush()
        descriptors = [theirs.fileno(), content.fileno(), *(file.fileno() for file in files)]
        socket.send_fds(_zygote(), [b"start"], descriptors)
    return Process(ours, files)


_connections: list[socket.socket] = []  # to the zygote of this process, once there is one


def _zygote() -> socket.socket:
    if not _connections:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        _connections.append(ours)
        atexit.register(lambda: (ours.close(), process.wait(timeout=60)))
    return _connections[0]


# In the zygote


class Child(NamedTuple):
    pid: int
    reply: socket.socket


def _serve(connection: socket.socket) -> None:
    """Forks at each request, and answers with the pid, then with the exit status and the processor seconds. Ends with the tests, and their processes too."""
    for name in (COMMAND, "stages.engine.runner", *_modules(), *IMPORTED):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    children: dict[int, Child] = {}  # by the descriptor that can be read when the child has ended
    while True:
        for key, _ in selector.select():
            if key.fd in children:
                selector.unregister(key.fd)
                _answer(key.fd, children.pop(key.fd))
                continue
            data, descriptors, _, _ = socket.recv_fds(connection, 16, 4)
            if not data:
                for child in children.values():
                    os.killpg(child.pid, signal.SIGKILL)
                return
            assert len(os.listdir("/proc/self/task")) == 1, "a fork of a process with threads may wait for ever"
            reply, content, *outputs = descriptors
            if not (pid := os.fork()):
                selector.close()
                for each in (connection, *(child.reply for child in children.values())):
                    each.close()
                for each in (reply, *children):
                    os.close(each)
                os.setsid()
                for number, output in enumerate(outputs, 1):
                    os.dup2(output, number)
                    os.close(output)
                with open(content, "rb") as file:
                    file.seek(0)
                    _live(pickle.load(file))
            for each in (content, *outputs):
                os.close(each)
            descriptor, child = os.pidfd_open(pid), Child(pid, socket.socket(fileno=reply))
            child.reply.send(str(pid).encode())
            children[descriptor] = child
            selector.register(descriptor, selectors.EVENT_READ)


def _modules() -> list[str]:
    from stages import STAGES

    return [stage.target.partition(":")[0] for stage in STAGES.values()]


def _answer(descriptor: int, child: Child) -> None:
    _, status, usage = os.wait4(child.pid, 0)
    os.close(descriptor)
    with contextlib.suppress(BrokenPipeError):
        child.reply.send(f"{os.waitstatus_to_exitcode(status)} {usage.ru_utime + usage.ru_stime}".encode())
    child.reply.close()


# In a process of `stage`


class Waiting(NamedTuple):
    """A child that was forked before the command began, and reads from the pipe what it shall do."""

    pid: int
    pipe: int


class Forked(subprocess.Popen):
    """Popen, but a child that was set aside takes the place of `python -m stages.cli.main`, while there is one."""

    waiting: ClassVar[list[Waiting]] = []

    def __init__(self, command: Any, *arguments: Any, **options: Any) -> None:
        if list(command[:3]) != [sys.executable, "-m", COMMAND] or not self.waiting:
            super().__init__(command, *arguments, **options)
            return
        assert not arguments and not [name for name in options if name != "env" and options[name] is not None]
        self.pid, pipe = self.waiting.pop(0)
        self.args, self.returncode, self.stdin, self.stdout, self.stderr = command, None, None, None, None
        self._child_created, self._waitpid_lock, self._sigint_wait_secs = True, threading.Lock(), 0.25
        with open(pipe, "wb") as file:
            pickle.dump((list(command[3:]), dict(options["env"])), file)


def _live(request: Request) -> NoReturn:
    """The life of a process of `stage`, from its first line to its exit status."""
    Forked.waiting = _set_aside(request)
    status: object = 1
    try:
        status = _command(request)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
    _end(status)


def _set_aside(request: Request) -> list[Waiting]:
    """As many children as the command starts by itself: the second of two ranks, and with `all` each stage."""
    waiting: list[Waiting] = []
    if "--trainer.devices=2" not in (request.words or ()) or "LOCAL_RANK" in request.environment:
        return waiting
    for _ in range(8 if "all" in (request.words or ()) else 1):
        reads, writes = os.pipe()
        if not (pid := os.fork()):
            for each in (writes, *(other.pipe for other in waiting)):
                os.close(each)
            with open(reads, "rb") as file:
                content = file.read()
            if not content:  # the command has ended and has not needed it
                os._exit(0)
            words, environment = pickle.loads(content)
            _live(request._replace(words=words, environment=environment))
        os.close(reads)
        waiting.append(Waiting(pid, writes))
    return waiting


def _command(request: Request) -> int:
    import numpy as np
    import torch

    from tests import other_luck

    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    other_luck.apply()
    sys.argv = [COMMAND, *(request.words or ())]
    sys.modules["__main__"].__spec__ = SimpleNamespace(name=COMMAND)  # type: ignore[assignment]  # Lightning's command of the other ranks
    subprocess.Popen = Forked  # type: ignore[misc]
    if request.before:
        request.before()
    return 0 if request.words is None else sys.modules[COMMAND].main(request.words)


def _end(status: object) -> NoReturn:
    """As Python ends: threads that are no daemons, functions at exit, what is not yet flushed; a status that is no number is printed."""
    if not (status is None or isinstance(status, int)):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for waiting in Forked.waiting:
        os.close(waiting.pipe)
        os.waitpid(waiting.pid, 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
