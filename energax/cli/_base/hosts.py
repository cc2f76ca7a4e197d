"""Several processes that train one model, on one machine or many: `--coordinator`, or SLURM.

The process that the user starts is a small parent. It starts the worker, which joins the others by
`jax.distributed`, passes on what it says, and speaks for it where JAX's runtime aborts it, as it
does to all workers when one of them is lost.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from energax.cli._base.answers import (
    BAD_INPUT,
    DONE,
    FAULT,
    INTERRUPTED,
    SETTINGS,
    UNRELIABLE,
    BadInput,
    say,
)

Coordinator = Annotated[
    str | None,
    typer.Option("--coordinator", help="HOST:PORT of process 0, where several train one model"),
]
NumProcesses = Annotated[
    int | None, typer.Option("--num-processes", min=1, help="how many, with --coordinator")
]
ProcessId = Annotated[
    int | None, typer.Option("--process-id", min=0, help="which one this is, from 0")
]

HEARTBEAT_SECONDS = 15  # without a sign of life a process is lost
START_SECONDS = 120  # for all of them to come
_WORKER = "ENERGAX_WORKER"
_SHOW_ALL = "ENERGAX_TRACEBACK"
_KEPT_LINES = 200
_OF_THE_RUNTIME = re.compile(r"^(WARNING: All log|[EFWI]\d{4} |\*\*\* |    @ |\[Gloo\])")


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Which of how many processes this is, and where they meet."""

    coordinator: str
    num_processes: int
    process_id: int

    @classmethod
    def of(
        cls, coordinator: str | None, num_processes: int | None, process_id: int | None
    ) -> "Hosts | None":
        """What the options say, or else SLURM; None for a process that works alone.

        **Raises:** BadInput for options that do not go together.
        """
        given = (coordinator, num_processes, process_id)
        if all(option is None for option in given):
            return cls._of_slurm()
        if coordinator is None or num_processes is None or process_id is None:
            raise BadInput(
                "--coordinator, --num-processes and --process-id go together: HOST:PORT of process "
                "0, how many there are, and which one this is"
            )
        if not re.fullmatch(r"[^:\s]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", coordinator):
            raise BadInput(f"--coordinator {coordinator}: expected HOST:PORT, as in node1:5000")
        if process_id >= num_processes:
            raise BadInput(
                f"--process-id {process_id}: expected 0 to {num_processes - 1}, as "
                f"--num-processes is {num_processes}"
            )
        return cls(coordinator, num_processes, process_id) if num_processes > 1 else None

    @classmethod
    def _of_slurm(cls) -> "Hosts | None":
        """Of a step that `srun` started with several tasks, as JAX itself reads it."""
        if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2:  # a job's own shell has no step
            return None
        from jax._src.clusters import SlurmCluster

        if not SlurmCluster.is_env_present():
            return None
        return cls(
            SlurmCluster.get_coordinator_address(None, None),
            SlurmCluster.get_process_count(),
            SlurmCluster.get_process_id(),
        )

    @property
    def leads(self) -> bool:
        return self.process_id == 0

    def join(self) -> None:
        """Of a worker: meets the others. Nothing of JAX may have run before."""
        import jax

        _end_with_the_parent()
        _answers_alone_on_stdout()
        # CPUs need somebody to carry what they say to each other; other devices do it themselves.
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # Else JAX keeps SIGTERM to itself, as a notice of an end that does not come.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            self.coordinator,
            self.num_processes,
            self.process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )

    def run_worker(self, out: str) -> int:
        """Of a parent: this command again as a worker; its exit status.

        **Arguments:** `out`: the run's folder, for the message.
        """
        command = [sys.executable, "-m", "energax.cli", *sys.argv[1:]]
        worker = subprocess.Popen(
            command, env=os.environ | {_WORKER: "1"}, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
        said: deque[str] = deque(maxlen=_KEPT_LINES)
        reader = threading.Thread(target=_pass_on, args=(worker.stderr, said), daemon=True)
        reader.start()
        while True:
            try:
                status = worker.wait()
                break
            except KeyboardInterrupt:  # the worker has it too, and ends by itself
                continue
        reader.join(timeout=5)
        if status == -signal.SIGINT:
            return INTERRUPTED
        if status in (DONE, UNRELIABLE, INTERRUPTED):
            return status
        if status in (FAULT, BAD_INPUT) and not any(map(_lost_contact, said)):
            return status
        why = self._why(status, "".join(said))
        say(f"energax: process {self.process_id} of {self.num_processes}: {why}")
        if (Path(out) / SETTINGS).exists():
            say(
                f"energax: nothing up to the last checkpoint in {out} is lost: start all processes "
                f"again, as many as you like, by `energax resume {out}` with --coordinator"
            )
        return FAULT

    def _why(self, status: int, said: str) -> str:
        if "RegisterTask" in said:
            return (
                f"not all {self.num_processes} processes came to {self.coordinator} within "
                f"{START_SECONDS} s: start each with the same --coordinator and --num-processes"
            )
        if status < 0 and (status != -signal.SIGABRT or not _lost_contact(said)):
            return f"it was ended by {signal.Signals(-status).name}, by hand or for want of memory"
        lost = [n for n in _silent(said) if n != self.process_id]
        sign = f"gave no sign of life for {HEARTBEAT_SECONDS} s"
        if not lost:
            lost = [n for n in range(self.num_processes) if n != self.process_id]
            sign = "is gone"
        return (
            f"training ended, as process {' or '.join(map(str, lost))} {sign} (killed, out of "
            "memory, ended by a fault of its own, or its machine or network is down); see what it "
            "said itself"
        )


def meet(hosts: Hosts | None, out: Path) -> bool:
    """Has a worker meet the others; whether this process leads. In a parent it does not return.

    **Raises:** typer.Exit, in a parent once its worker has ended.
    """
    if hosts is None:
        return True
    if not is_worker():
        raise typer.Exit(hosts.run_worker(str(out)))
    hosts.join()
    return hosts.leads


def is_worker() -> bool:
    """Whether this process is one that a parent has started."""
    return os.environ.get(_WORKER) == "1"


def leave(status: int) -> None:
    """Ends a worker that failed at once: it must not wait for the others, who wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_LOST = re.compile(
    "JAX distributed service|coordination service|heartbeat|Gloo (all|re|broad|bar)|gloo/transport"
)


def _lost_contact(line: str) -> bool:
    return _LOST.search(line) is not None


def _silent(said: str) -> list[int]:
    """The processes of which the runtime says that their heartbeats stopped."""
    found = re.findall(r"stopped sending heartbeats\):\s+([\d\s,]+)", said)
    return sorted({int(number) for group in found for number in re.findall(r"\d+", group)})


def _pass_on(stream, said: deque[str]) -> None:
    """Prints what a worker says on stderr, but for the lines of the runtime itself."""
    aborted = False
    for line in stream:
        said.append(line)
        aborted |= bool(re.match(r"^F\d{4} ", line))
        of_the_runtime = aborted or _OF_THE_RUNTIME.match(line) or _lost_contact(line)
        if _SHOW_ALL in os.environ or not of_the_runtime:
            sys.stderr.write(line)
            sys.stderr.flush()


def _answers_alone_on_stdout() -> None:
    """What libraries print by themselves, as Gloo does, goes to stderr, to the parent."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


def _end_with_the_parent() -> None:
    """A worker whose parent is gone ends, so that the others are told."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(FAULT)

    threading.Thread(target=watch, daemon=True).start()
