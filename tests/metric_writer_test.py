"""Metrics on disk: valid JSON, each step once, nothing half-written read."""

import json
import math

import jax.numpy as jnp
import pytest
from tensorboardX.proto import event_pb2

from instructedit_jax.errors import UserError
from instructedit_jax.metric_writer import MetricWriter, read_metrics


def _steps(workdir) -> list[int]:
  return [row["step"] for row in read_metrics(workdir / "metrics.jsonl")]


def test_rows_are_valid_json_even_when_numbers_are_not(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(1, {"loss": jnp.float32(0.5), "n": 3})
    writer.write(2, {"loss": float("nan"), "up": math.inf, "down": -math.inf})
  text = (tmp_path / "metrics.jsonl").read_text()

  def refuse(name):
    raise AssertionError(name)

  rows = [json.loads(x, parse_constant=refuse) for x in text.splitlines()]
  assert rows[0] == {"step": 1, "loss": 0.5, "n": 3.0}
  assert rows[1] == {"step": 2, "loss": "nan", "up": "inf", "down": "-inf"}
  one, two = read_metrics(tmp_path / "metrics.jsonl")
  assert one == rows[0]
  assert math.isnan(two["loss"])
  assert (two["up"], two["down"]) == (math.inf, -math.inf)


def test_a_resumed_run_has_every_step_once(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in range(1, 8):
      writer.write(step, {"loss": step})
  with open(tmp_path / "metrics.jsonl", "a") as file:
    file.write('{"step": 8, "lo')  # the process was killed here
  with MetricWriter(tmp_path, resume_step=5) as writer:
    assert _steps(tmp_path) == [1, 2, 3, 4, 5]
    writer.write(6, {"loss": 60})
    writer.flush()
    assert _steps(tmp_path) == [1, 2, 3, 4, 5, 6]
  rows = read_metrics(tmp_path / "metrics.jsonl")
  assert rows[-1] == {"step": 6, "loss": 60.0}


def test_a_fresh_run_starts_over(tmp_path):
  for _ in range(2):
    with MetricWriter(tmp_path) as writer:
      writer.write(0, {"loss": 1})
  assert _steps(tmp_path) == [0]


def test_tensorboard_events_hold_the_finite_numbers(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(3, {"train/loss": 0.25, "train/bad": math.nan})
  (path,) = (tmp_path / "tensorboard").glob("events*")
  found = {}
  data, place = path.read_bytes(), 0
  while place < len(data):  # length, its checksum, the event, its checksum
    size = int.from_bytes(data[place : place + 8], "little")
    event = event_pb2.Event.FromString(data[place + 12 : place + 12 + size])
    place += size + 16
    for value in event.summary.value:
      found[value.tag] = (event.step, value.simple_value)
  assert found == {"train/loss": (3, 0.25)}


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path):
  with MetricWriter(tmp_path / "w", enabled=False) as writer:
    writer.write(1, {"loss": 1})
    writer.flush()
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("line", ["[1]", "{}", '{"step": "x"}', "{"])
def test_a_broken_line_is_named_unless_it_is_the_last(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  path.write_text(f'{{"step": 1}}\n{line}\n')
  assert read_metrics(path) == [{"step": 1}]
  path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
  with pytest.raises(UserError, match="line 2 is not a row"):
    read_metrics(path)


def test_a_missing_file_and_an_unwritable_folder(tmp_path):
  with pytest.raises(UserError, match="cannot be read"):
    read_metrics(tmp_path / "none.jsonl")
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot be written"):
    MetricWriter(tmp_path / "file")
