"""Several processes as one run: how they begin, wait for each other, and end when one fails.

JAX's own service (`jax.distributed`) joins them and holds a small store of keys. Every process
writes there that it lives, and of what it fails; each looks at the others' keys from a thread. A
collective whose other side is dead can wait for ever, so that only this thread can end the process.
"""

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator

import jax
from etils import epath
from jax._src import distributed as jax_distributed  # the store has no public name

BEAT = 2.0  # seconds between two signs of life
SILENCE = 24.0  # seconds without one, after which a process counts as dead
_JAX_HEARTBEAT = 45  # seconds; JAX's own check, should the thread not be there to tell
_WAIT = 7 * 24 * 3600  # seconds that a barrier waits: a dead process ends the wait much sooner
# Exit code of a process that ends because of another one. It is that of JAX's own check, and tells
# launch/ that the error which counts is elsewhere.
PEER_LOST = 128 + signal.SIGABRT
_count = itertools.count()


def is_main() -> bool:
    """Whether this process writes the run's files and talks to people; one of all does."""
    return jax.process_index() == 0


def process_count() -> int:
    """How many processes the run has."""
    return jax.process_count()


def barrier(name: str) -> None:
    """Returns when all processes are here; they may take hours."""
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"marker_lm/{name}/{next(_count)}", 1000 * _WAIT)


def gather(name: str, text: str) -> list[str]:
    """The text of each process, in their order, on all of them."""
    if jax.process_count() == 1:
        return [text]
    folder = f"marker_lm/{name}/{next(_count)}"
    _client().key_value_set(f"{folder}/{jax.process_index()}", text)
    _client().wait_at_barrier(folder, 1000 * _WAIT)
    return [_client().key_value_try_get(f"{folder}/{i}") for i in range(jax.process_count())]


def check_shared(folder: epath.Path) -> None:
    """Raises ValueError where a process does not see what the first one writes in a folder."""
    if jax.process_count() == 1:
        return
    file, token = folder / ".processes", uuid.uuid4().hex
    if is_main():
        file.write_text(token)
    token = gather("shared", token)[0]
    seen = file.exists() and file.read_text() == token
    barrier("shared")
    if not seen:
        raise ValueError(
            f"process {jax.process_index()} on {socket.gethostname()} does not see what process 0 "
            f"writes in {folder}; use a folder that all hosts share, such as gs://BUCKET/RUN."
        )
    if is_main():
        file.unlink()


@contextlib.contextmanager
def joined(
    environment: bool = False, coordinator: str = "", processes: int = 0, process: int = -1
) -> Iterator[None]:
    """Inside, this process is one of a run's; without arguments it is the only one.

    Where one fails, all end: the one with what it fails of, the others with its name and why.

    Args:
      environment: coordinator, number and index come from the environment: TPU pods, GKE, SLURM,
        Open MPI.
      coordinator: host:port where process 0 listens; then the next two are needed.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      ValueError: arguments that contradict each other, or an environment that says nothing.
    """
    if not environment and not coordinator:
        if processes or process >= 0:
            raise ValueError("--processes and --process need --coordinator=HOST:PORT.")
        yield
        return
    _initialize(environment, coordinator, processes, process)
    watch = _Watch()
    try:
        watch.start()
        yield
        barrier("end")
        watch.stop()
        jax.distributed.shutdown()
    except BaseException as error:
        _fail(error)


def _initialize(environment: bool, coordinator: str, processes: int, process: int) -> None:
    if environment and coordinator:
        raise ValueError("--distributed asks the environment; leave it out with --coordinator.")
    if coordinator and not 0 <= process < processes:
        raise ValueError(
            f"--coordinator={coordinator} needs --processes=N and --process=I with 0 <= I < N; "
            f"they are {processes} and {process}."
        )
    # A SIGTERM is ours: JAX's handler would take it away from `remember` in loop.py.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    named = (
        dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
        if coordinator
        else {}
    )
    try:
        jax.distributed.initialize(
            **named,
            heartbeat_timeout_seconds=_JAX_HEARTBEAT,
            shutdown_timeout_seconds=_JAX_HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        where = f"--coordinator={coordinator}" if coordinator else "--distributed"
        mend = (
            "start all processes within five minutes, and let the port be free and reachable."
            if coordinator
            else "on other than TPU pods, GKE, SLURM and Open MPI give --coordinator=HOST:PORT "
            "--processes=N --process=I."
        )
        raise ValueError(
            f"{where}: the processes do not find each other ({error}); {mend}"
        ) from None


class _Watch(threading.Thread):
    """Says that this process lives, and ends it when another one does not."""

    def __init__(self):
        super().__init__(name="watch", daemon=True)
        self._stopped = threading.Event()
        self._me, self._hosts = jax.process_index(), gather("host", socket.gethostname())

    def stop(self) -> None:
        """Returns when the thread has ended: nothing is said of processes that leave now."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        last = {i: ("", time.monotonic()) for i in range(jax.process_count())}
        for beat in itertools.count():
            if self._stopped.wait(BEAT):
                return
            try:
                _client().key_value_set(f"marker_lm/beat/{self._me}", str(beat), True)
                beats = _read_folder("marker_lm/beat/")
                failed = _read_folder("marker_lm/failed/")
            except jax.errors.JaxRuntimeError as error:
                if not self._stopped.is_set():
                    self._end(f"process 0 on {self._hosts[0]} can't be reached: {error}")
            for i, why in failed.items():
                if i != self._me:
                    self._end(f"process {i} on {self._hosts[i]} failed: {why}")
            now = time.monotonic()
            for i, found in beats.items():
                if last[i][0] != found:
                    last[i] = (found, now)
            for i, (_, since) in last.items():
                if now - since > SILENCE:
                    self._end(
                        f"process {i} on {self._hosts[i]} has not answered for {now - since:.0f} s"
                    )

    def _end(self, why: str) -> None:
        _say(f"process {self._me} on {self._hosts[self._me]} ends: {why}")
        # The one that failed ends first; and with process 0 goes the store, where others yet read.
        time.sleep(3 * BEAT)
        os._exit(PEER_LOST)


def _fail(error: BaseException) -> None:
    """Says what this process fails of, here and to the others, and ends it."""
    me = f"process {jax.process_index()} on {socket.gethostname()}"
    if not isinstance(error, ValueError | OSError | KeyboardInterrupt):
        traceback.print_exception(error)
    why = f"{type(error).__name__}: {error}"
    _say(f"{me} failed: {why}")
    if isinstance(error, jax.errors.JaxRuntimeError):
        # Perhaps because of another one; the thread finds out and ends this process.
        time.sleep(SILENCE + 2 * BEAT)
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().key_value_set(f"marker_lm/failed/{jax.process_index()}", why[:2000], True)
        time.sleep(2 * BEAT)
    # The usual way out waits for the others, who wait for this one.
    os._exit(130 if isinstance(error, KeyboardInterrupt) else 2)


def _say(line: str) -> None:
    sys.stdout.flush()
    print(f"marker-lm train: {line}", file=sys.stderr, flush=True)


def _read_folder(folder: str) -> dict[int, str]:
    """Process -> what it wrote below a folder of the store."""
    found = _client().key_value_dir_get(folder)
    return {int(key.rsplit("/", 1)[1]): value for key, value in found}


def _client():
    return jax_distributed.global_state.client
