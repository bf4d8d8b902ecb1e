"""Progress lines and bars."""

import io
import re

import jax.numpy as jnp
import pytest

from instructedit_jax import progress
from instructedit_jax.progress import Progress


class Clock:
  """A clock that a test moves by hand."""

  def __init__(self):
    self.now = 100.0

  def monotonic(self) -> float:
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress, "time", clock)
  return clock


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


class Pending:
  """Stands for an array still being computed; reading it would block."""

  def is_ready(self) -> bool:
    return False

  def __float__(self) -> float:
    raise AssertionError("waited for the device")


def test_a_log_gets_one_line_per_interval(clock):
  stream = io.StringIO()
  with Progress(3000, "train", every_seconds=10, stream=stream) as bar:
    for _ in range(120):
      clock.now += 0.1
      bar.update(2, loss=jnp.float32(0.63), split="a")
  lines = stream.getvalue().splitlines()
  assert len(lines) == 2  # after ten seconds, and where the loop ended
  assert lines[-1] == (
    "train 240/3000 8.0% 20.0 it/s eta 2:18 loss=0.63 split=a"
  )


def test_a_resumed_loop_counts_only_its_own_steps_in_the_speed(clock):
  stream = io.StringIO()
  with Progress(1000, "train", start=500, stream=stream) as bar:
    clock.now += 20
    bar.update(10)
  assert "train 510/1000 51.0% 2.0 s/it eta 16:20" in stream.getvalue()


def test_the_speed_is_that_of_the_last_minute(clock):
  stream = io.StringIO()
  with Progress(10_000, "train", every_seconds=1, stream=stream) as bar:
    clock.now += 300  # compilation
    bar.update()
    for _ in range(200):
      clock.now += 1
      bar.update(5)
  assert "5.0 it/s" in stream.getvalue().splitlines()[-1]


def test_numbers_still_being_computed_are_not_waited_for(clock):
  stream = io.StringIO()
  with Progress(10, "train", every_seconds=0, stream=stream) as bar:
    clock.now += 1
    bar.update(loss=1.5)
    clock.now += 1
    bar.update(loss=Pending())
  assert stream.getvalue().splitlines()[-1].endswith("loss=1.5")


def test_a_loop_that_fails_says_where(clock):
  stream = io.StringIO()

  def loop():
    with Progress(10, "evaluate", stream=stream) as bar:
      clock.now += 1
      bar.update(3)
      raise RuntimeError("stop")

  with pytest.raises(RuntimeError, match="stop"):
    loop()
  assert stream.getvalue().startswith("evaluate 3/10 30.0%")


def test_an_empty_loop_and_one_that_overshoots():
  for total, n in ((0, 0), (2, 3)):
    stream = io.StringIO()
    with Progress(total, "x", stream=stream) as bar:
      bar.update(n)
    assert stream.getvalue().startswith(f"x {n}/{total}")


def test_a_terminal_gets_a_bar():
  stream = Terminal()
  with Progress(4, "train", stream=stream) as bar:
    for _ in range(4):
      bar.update(loss=0.5)
  plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
  assert "train" in plain
  assert "4/4 100.0%" in plain
  assert "loss=0.5" in plain


@pytest.mark.parametrize(
  ("seconds", "text"), [(0, "0:00"), (125, "2:05"), (3725, "1:02:05")]
)
def test_clock(seconds, text):
  assert progress._clock(seconds) == text
