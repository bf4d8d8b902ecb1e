"""Mixtures: balanced, every record once an epoch, a function of the step."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.mixture import Mixture
from instructedit_jax.tasks.record import Record


def records(task, count):
  return [Record(f"{task}/{i}", task, "s", "p", "t") for i in range(count)]


def data(**counts):
  return {task: records(task, count) for task, count in counts.items()}


def ids(mixture, steps, size=8):
  return [r.id for step in steps for r in mixture.batch(step, size)]


def test_a_batch_is_a_function_of_seed_and_step():
  one, other = (
    Mixture(data(a=7, b=30), seed=3),
    Mixture(data(a=7, b=30), seed=3),
  )
  forward = {step: one.batch(step, 8) for step in range(300)}
  for step in reversed(range(300)):
    assert other.batch(step, 8) == forward[step]
  assert ids(Mixture(data(a=7, b=30), seed=4), range(9)) != ids(one, range(9))


@settings(max_examples=25, deadline=None)
@given(
  counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
  seed=st.integers(0, 2**40),
)
def test_every_record_once_an_epoch(counts, seed):
  mixture = Mixture(
    data(**{f"t{i}": count for i, count in enumerate(counts)}), seed=seed
  )
  drawn = ids(mixture, range(250))
  for index, count in enumerate(counts):
    mine = [name for name in drawn if name.startswith(f"t{index}/")]
    for start in range(0, len(mine) - count + 1, count):
      assert len(set(mine[start : start + count])) == count


def test_epochs_differ_in_order():
  drawn = ids(Mixture(data(a=20)), range(10), 20)
  epochs = {tuple(drawn[i : i + 20]) for i in range(0, 200, 20)}
  assert len(epochs) == 10


@pytest.mark.parametrize(
  "weights", [None, {"a": 3.0, "b": 1.0}, {"a": 0.2, "b": 0.5}]
)
def test_shares_follow_the_weights(weights):
  mixture = Mixture(data(a=5, b=500), weights)
  tasks = Counter(name[0] for name in ids(mixture, range(1200)))
  weights = weights or {"a": 1.0, "b": 1.0}
  share = weights["a"] / sum(weights.values())
  assert tasks["a"] / tasks.total() == pytest.approx(share, abs=2e-3)


def test_batches_vary_in_their_tasks():
  mixture = Mixture(data(a=50, b=50))
  mixes = {
    sum(r.task == "a" for r in mixture.batch(step, 4)) for step in range(99)
  }
  assert len(mixes) > 2


def test_tiny_and_zero_weights():
  mixture = Mixture(data(a=5, b=5, c=5), {"a": 1e-9, "b": 1.0, "c": 0.0})
  tasks = Counter(name[0] for name in ids(mixture, range(120)))
  assert set(tasks) == {"a", "b"}
  assert tasks["a"] == 1


def test_a_task_keeps_its_order_whatever_the_others_are():
  def order(mixture):
    return [n for n in ids(mixture, range(90)) if n.startswith("a/")][:12]

  assert order(Mixture(data(a=12))) == order(Mixture(data(a=12, b=3)))


def test_late_steps_cost_nothing():
  assert len(Mixture(data(a=3, b=4)).batch(10**12, 16)) == 16


@pytest.mark.parametrize(
  ("counts", "options", "says"),
  [
    ({}, {}, "no task"),
    ({"a": 0}, {}, "no records"),
    ({"a": 1}, {"weights": {"b": 1.0}}, "weights are for"),
    ({"a": 1}, {"weights": {"a": -1.0}}, "not negative"),
    ({"a": 1}, {"weights": {"a": 0.0}}, "not all zero"),
    ({"a": 1}, {"weights": {"a": float("nan")}}, "finite"),
    ({"a": 1}, {"seed": -1}, "seed"),
    ({f"t{i}": 1 for i in range(961)}, {}, "960 is the most"),
  ],
)
def test_bad_mixtures(counts, options, says):
  with pytest.raises(UserError, match=says):
    Mixture(data(**counts), **options)


def test_bad_batches():
  for step, size in ((-1, 4), (0, 0)):
    with pytest.raises(UserError, match="No batch"):
      Mixture(data(a=1)).batch(step, size)


def test_describe():
  text = Mixture(data(a=10, b=30), {"a": 1.0, "b": 3.0}).describe()
  assert "a: 10 records, 25.0% of the mixture, an epoch every 40" in text
