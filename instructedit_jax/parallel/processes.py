"""Several processes, one a host, that run the same program together.

They find each other through `jax.distributed`. Every process runs every step;
what only one should do (write a file), the first does. A run whose processes
no longer are all there ends, and the same command continues it on those that
are: nothing here tries to go on with fewer.
"""

import contextlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from instructedit_jax.errors import UserError

_MESSAGE_BYTES = 2048
# What runtimes say when a collective's other side is gone.
_LOST = re.compile(
  r"gloo|nccl|coordination|heartbeat|barrier|UNAVAILABLE|DEADLINE_EXCEEDED"
  r"|connection (reset|closed|refused)|socket closed|preempted",
  re.IGNORECASE,
)
_HEARTBEAT = "INSTRUCTEDIT_HEARTBEAT_SECONDS"
_START = "INSTRUCTEDIT_START_SECONDS"
_ADDRESS = "JAX_COORDINATOR_ADDRESS"
_LAST_SECONDS = 2.0


def start(wanted: bool | None = None) -> bool:
  """Joins the other processes, if there are any; before any other use of JAX.

  Where the processes are is found by `jax.distributed.initialize` itself under
  SLURM, Open MPI, Kubernetes and on TPUs; elsewhere JAX_COORDINATOR_ADDRESS
  (host:port of the first), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it. A
  process not heard of for INSTRUCTEDIT_HEARTBEAT_SECONDS (60) ends the run; one
  that meets no others within INSTRUCTEDIT_START_SECONDS (300) ends with a line
  that says so.

  Args:
    wanted: None joins where the environment names several processes.

  Returns:
    whether this is one of several processes.

  Raises:
    UserError: it was wanted and there is nothing to join, or the others cannot
      be reached.
  """
  if wanted is False or jax.distributed.is_initialized():
    return jax.distributed.is_initialized()
  if wanted is None and not _several():
    return False
  address = os.environ.get(_ADDRESS)
  if address and not re.fullmatch(r".+:\d+", address):
    raise UserError(
      f"{_ADDRESS}={address}: looks like HOST:PORT, the same in all processes,"
      " with any free port of the first one's machine"
    )
  try:
    with _patience(_number(_START) or 300) as seconds:
      jax.distributed.initialize(
        num_processes=_number("JAX_NUM_PROCESSES"),
        process_id=_number("JAX_PROCESS_ID"),
        initialization_timeout=seconds,
        heartbeat_timeout_seconds=_number(_HEARTBEAT) or 60,
      )
  except (RuntimeError, ValueError, OSError) as error:
    reason = str(error).strip().split("\n")[0][:300]
    raise UserError(
      f"the processes of this run cannot be joined ({reason}). Under SLURM"
      " start it with srun; elsewhere set JAX_COORDINATOR_ADDRESS=HOST:PORT,"
      " JAX_NUM_PROCESSES and JAX_PROCESS_ID in each process, or leave out"
      " --distributed"
    ) from error
  _compile_anew_on_cpus()
  return True


def _compile_anew_on_cpus() -> None:
  """Leaves programs of several CPU processes out of the compile cache.

  The first process alone writes and finds them there. XLA:CPU forgets in which
  order the collectives of a stored program run (jaxlib 0.10), so the others,
  which compiled it, would wait for another one than the first has sent.
  """
  if jax.process_count() > 1 and jax.default_backend() == "cpu":
    jax.config.update("jax_enable_compilation_cache", False)


@contextlib.contextmanager
def _patience(seconds: int) -> Iterator[int]:
  """Ends this process if the body takes longer; JAX itself would crash.

  Yields:
    seconds that are enough not to come before that.
  """

  def end() -> None:
    where = os.environ.get(_ADDRESS, "the address that the cluster names")
    print(
      f"error: the processes of this run have not all met at {where} within"
      f" {seconds} s. Start the same command in every one of them, with"
      " JAX_PROCESS_ID from 0 on where no cluster numbers them, and see that"
      f" the first one's machine can be reached there; {_START} sets another"
      " time",
      file=sys.stderr,
      flush=True,
    )
    os._exit(2)

  timer = threading.Timer(seconds, end)
  timer.daemon = True
  timer.start()
  try:
    yield seconds + 60
  finally:
    timer.cancel()


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def first(function: Callable[[], Any]) -> None:
  """Runs `function` in the first process; all raise its UserError."""
  message = ""
  if is_first():
    try:
      function()
    except UserError as error:
      if jax.process_count() == 1:
        raise
      message = str(error)
  if jax.process_count() == 1:
    return
  text = message.encode()[:_MESSAGE_BYTES]
  buffer = np.zeros(_MESSAGE_BYTES, np.uint8)
  buffer[: len(text)] = np.frombuffer(text, np.uint8)
  shared = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
  message = (
    shared.astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")
  )
  if message:
    raise UserError(message)


def meet(name: str) -> None:
  """Waits until all processes are here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def watching() -> Iterator[None]:
  """Turns the many faces of a lost process into one UserError."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    reason = str(error).strip().split("\n")[0][:200]
    if jax.process_count() == 1 or not _LOST.search(str(error)):
      raise
    raise UserError(
      f"another process of this run was lost ({reason}). Its own log says why."
      " The same command, on as many hosts as there are, goes on from the last"
      " checkpoint"
    ) from error


def leave(status: int) -> NoReturn:
  """Ends this process at once, without waiting for the others.

  Leaving in the usual way waits for all, and they may wait for this one. The
  first process keeps their meeting place, so it goes last.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if is_first():
    time.sleep(_LAST_SECONDS)
  os._exit(status)


class StopRequest:
  """A request to stop (SIGTERM), honoured by all processes at the same step."""

  def __init__(self) -> None:
    self._asked = False
    self._before: Any = None
    # JAX listens for the signal itself then, and tells the other processes.
    self._shared = jax.distributed.is_initialized()

  def __enter__(self) -> "StopRequest":
    def ask(number: int, frame: FrameType | None) -> None:
      del number, frame
      self._asked = True

    if not self._shared:
      try:
        self._before = signal.signal(signal.SIGTERM, ask)
      except ValueError:  # not the main thread: a notebook, a test
        self._before = None
    return self

  def __exit__(self, *exception: object) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def asked(self, step: int) -> bool:
    """Whether to stop after `step`; to be asked once after every step."""
    if self._shared and multihost_utils.reached_preemption_sync_point(step):
      self._asked = True
    return self._asked


def _several() -> bool:
  """Whether the environment speaks of more than one process.

  A single process needs no company, and looking for it would only cost time.
  """
  counts = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
  if any((_number(name) or 1) > 1 for name in counts):
    return True
  # The batch script itself has all tasks' number, but is one step of one task.
  if (_number("SLURM_STEP_NUM_TASKS") or 1) > 1:
    return True
  return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _number(name: str) -> int | None:
  text = os.environ.get(name)
  if not text:
    return None
  try:
    return int(text)
  except ValueError:
    raise UserError(f"{name}={text!r}: not a number") from None
