"""A SLURM of two nodes on this machine, in a folder of its own: munged, slurmctld and slurmd as Debian ships them (apt install slurm-wlm munge).

`python -m tests.slurm.cluster` starts one, prints what to export, and ends it at Ctrl-C or SIGTERM. Run it as root: slurmd starts jobs as their users.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits as long as its credential lives: 120 s by default.
AuthInfo=socket={place}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
# More CPUs than there may be: the jobs are small.
SlurmdParameters=config_overrides
JobRequeue=1
KillWait=10
ReturnToService=2
# Jobs that are over are known until the end of the tests.
MinJobAge=36000
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=2
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no cluster can be started here; None where one can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt install slurm-wlm munge"
    return None if os.geteuid() == 0 else "slurmd wants root"


class Cluster:
    """In a `with`: a running cluster, its partition `cpu`; `environment` is what its commands need."""

    def __init__(self) -> None:
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Cluster":
        self.place = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 107 characters
        self.environment = {**os.environ, "SLURM_CONF": str(self.place / "slurm.conf"), "PATH": _path()}
        self.environment["MASTER_ADDR"] = "127.0.0.1"  # no host is called node1
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if (self.place / "slurm.conf").is_file():
            self.ask("scancel", "--user=root")
            until(lambda: not self.ask("squeue", "--noheader", "--states=running,completing"), 30)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.place, ignore_errors=True)

    def ask(self, *words: str) -> str:
        """What a command of SLURM prints."""
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60).stdout.strip()

    def _start(self) -> None:
        host = socket.gethostname().split(".")[0]
        munge = self.place / "munge"
        for folder in (munge, self.place / "state"):
            folder.mkdir(mode=0o700)
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        ctld_port, port_1, port_2 = _free_ports(3)
        written = CONF.format(place=self.place, host=host, ctld_port=ctld_port, port_1=port_1, port_2=port_2)
        (self.place / "slurm.conf").write_text(written)
        files = (f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed"))
        self._daemon("munged", "--foreground", "--force", f"--socket={munge / 'socket'}", *files)
        if not until((munge / "socket").exists, 20):
            raise RuntimeError(f"munged did not start: {self._said('munged')}")
        self._daemon("slurmctld", "-D")
        for node in ("node1", "node2"):
            self._daemon("slurmd", "-D", "-N", node)
        if not until(lambda: self.ask("sinfo", "--noheader", "--format=%D %t") == "2 idle", 60):
            raise RuntimeError(f"SLURM did not start: {self._said('slurmctld')}{self._said('slurmd')}")

    def _daemon(self, *words: str) -> None:
        with (self.place / f"{words[0]}.out").open("ab") as out:
            self.daemons.append(
                subprocess.Popen(words, env=self.environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            )

    def _said(self, name: str) -> str:
        return (self.place / f"{name}.out").read_text()[-2000:]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until(holds: Callable[[], Any], seconds: float) -> bool:
    """Whether it held within that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.3)
    return False


def main() -> None:
    reason = missing()
    if reason:
        sys.exit(f"no SLURM here: {reason}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Cluster() as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
