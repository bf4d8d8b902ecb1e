"""The planner's numbers against the real thing."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from instructedit_jax import parallel
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import UserError
from instructedit_jax.models import presets
from instructedit_jax.planning import (
  costs,
  flops,
  liveness,
  placement,
  shapes,
  text,
)
from instructedit_jax.planning.machines import MACHINES, Machine
from instructedit_jax.training import step as step_lib
from instructedit_jax.training.data import Episodes, load_records
from tests import tiny_run
from tests.processes_test import CONFIG

ROOT = pathlib.Path(__file__).resolve().parents[1]
N = 64
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)
BYTES = 4 * N * N


def _config(**changes):
  plain = tiny_run.config("mend", tasks=(("counterfact", 1.0),))
  editor = EditorConfig("mend", plain.editor.network, rounds=1)
  return dataclasses.replace(plain, editor=editor, **changes)


@pytest.fixture(scope="module")
def run():
  return shapes.of_run(_config())


@pytest.fixture(scope="module")
def needs(run):
  return costs.of_run(run)


def test_products_are_counted_in_loops_too():
  def twice(a, b):
    def body(h, _):
      return jnp.tanh(h @ b), None

    h, _ = jax.lax.scan(body, a, length=5)
    return jax.jit(lambda x: x @ b)(h).sum()

  traced = flops.trace(twice, SQUARE, SQUARE)
  assert flops.count(traced) == 6 * 2 * N**3
  assert flops.count(traced, flops.touches(N + 1)) == 0


def _skipping(a, b, count):
  """Rows of `a` a quarter at a time; quarters from `count` on are passed by."""

  def turn(total, inputs):
    index, rows = inputs
    made = jax.lax.cond(
      index < count, lambda: jnp.tanh(rows @ b) @ b, lambda: rows * 0.0
    )
    return total + made.sum(), made

  parts = (jnp.arange(4), a.reshape(4, N // 4, N))
  return jax.lax.scan(turn, jnp.zeros(()), parts)


def _half_or_all(a, b, count):
  """A network over the first half of the rows where the rest is padding."""

  def network(rows):
    return jnp.tanh(rows @ b) @ b

  def half():
    return jnp.pad(network(a[: N // 2]), ((0, N // 2), (0, 0)))

  return jax.lax.cond(count <= N // 2, half, lambda: network(a))


@pytest.mark.parametrize("function", [_skipping, _half_or_all])
def test_a_branch_counts_as_its_larger_side(function):
  count = jax.ShapeDtypeStruct((), jnp.int32)
  traced = flops.trace(function, SQUARE, SQUARE, count)
  assert flops.count(traced) == 2 * 2 * N**3

  def turned(a, b, count):
    return jax.lax.cond(count > 0, lambda: a @ b, lambda: (a @ b) @ b)

  traced = flops.trace(turned, SQUARE, SQUARE, count)
  assert flops.count(traced) == 2 * 2 * N**3
  # Chosen products are those of the same side.
  assert flops.count(traced, flops.touches(N)) == 2 * 2 * N**3


def test_memory_of_loops_and_branches():
  count = jax.ShapeDtypeStruct((), jnp.int32)

  def of(function):
    return liveness.peak(flops.trace(function, SQUARE, SQUARE, count))

  # One turn's product; what the turns return is stacked, here as the result.
  assert of(_skipping) == pytest.approx(BYTES / 4, rel=0.01)
  # Two products of a turn, and the stacked results, which are read again.
  summed = of(lambda *given: _skipping(*given)[1] @ given[1])
  assert summed == pytest.approx(BYTES + BYTES / 4, rel=0.01)
  # The larger side's product; the smaller one's is in the same place.
  assert of(_half_or_all) == pytest.approx(BYTES, rel=0.01)


def test_gradients_of_branches_in_loops_keep_what_every_turn_read():
  count = jax.ShapeDtypeStruct((), jnp.int32)

  def plain(a, b, count):
    return _skipping(a, b, count)[0]

  def again(a, b, count):
    def turn(total, inputs):
      def some(rows):
        made = jax.lax.cond(
          inputs[0] < count, lambda: jnp.tanh(rows @ b) @ b, lambda: rows * 0.0
        )
        return made.sum()

      return total + jax.checkpoint(some)(inputs[1]), None

    parts = (jnp.arange(4), a.reshape(4, N // 4, N))
    return jax.lax.scan(turn, jnp.zeros(()), parts)[0]

  found = {}
  for function in (plain, again):
    gradient = jax.grad(function)
    found[function] = liveness.peak(
      flops.trace(gradient, SQUARE, SQUARE, count)
    )
    compiled = jax.jit(gradient).lower(SQUARE, SQUARE, count).compile()
    theirs = compiled.memory_analysis().temp_size_in_bytes
    assert found[function] == pytest.approx(theirs, rel=0.15), function
  # The second weight is kept four times, unless turns are made again.
  assert found[plain] > 4 * BYTES > found[again]


@pytest.mark.parametrize(
  ("function", "values"),
  [
    (lambda a: a @ a, 0),  # the result's memory is the caller's
    (lambda a: (a @ a) @ a, 1),
    (lambda a: ((a @ a) @ a) @ a, 2),  # one is read while one is written
    (lambda a: jnp.tanh(a) * 2 + 1, 0),  # one loop
    (lambda a: jnp.tanh(a) @ a, 1),  # a product reads from memory
    (lambda a: (jnp.tanh(a) @ a) + (jnp.tanh(a) @ a), 2),  # computed once
    (lambda a: (a @ a, (a @ a).sum() * 0)[0], 0),  # never used
  ],
)
def test_memory_of_small_programs(function, values):
  assert liveness.peak(flops.trace(function, SQUARE)) == values * BYTES


def test_plans_have_the_bytes_of_a_run(run):
  config, model = _config(), tiny_run.model()
  held = shapes.nbytes(model.params)
  assert sum(shapes.bytes_of(run.weights, run.model.tied).values()) == held
  batches = Episodes(model, config, load_records(config)).batches(0)
  real = next(iter(batches))
  planned = run.batch(config.batch_size)
  for ours, theirs in zip(planned, real, strict=True):
    for a, b in zip(
      jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True
    ):
      assert (a.shape, a.dtype) == (b.shape, b.dtype)
  rule = step_lib.optimizer(config.optimizer, config.steps)
  state = step_lib.init_state(
    jax.random.key(0), config.editor, model.config, rule
  )
  assert shapes.nbytes(run.state) == shapes.nbytes(state)


@pytest.mark.slow
def test_the_estimate_is_near_the_compilers_report(run, needs):
  episodes = run.run.batch_size
  report = costs.compiled_step(run, episodes)
  parts = needs.weights["suffix"] + needs.weights["head"]
  arguments = (
    parts
    + needs.editor
    + needs.optimizer
    + needs.statistics
    + episodes * needs.batch
  )
  # The program does not read quite all of the suffix: the first block's
  # attention norm counts with the prefix, the batch's unused fields with none.
  assert arguments == pytest.approx(report["arguments"], rel=0.02)
  ours = arguments + needs.step_bytes(episodes)
  theirs = report["arguments"] + report["temporary"]
  assert ours == pytest.approx(theirs, rel=0.1)


def test_flops_of_the_parts_add_up(run, needs):
  traced = flops.trace(
    costs.train_step(run), run.state, run.weights, run.batch(1)
  )
  assert needs.step_flops == pytest.approx(flops.count(traced), rel=1e-6)
  assert all(value > 0 for value in needs.flops.values())


@pytest.mark.parametrize(
  ("name", "billions"),
  [
    ("gpt2-xl", 1.558),
    ("llama-2-7b", 6.738),
    ("llama-2-13b", 13.016),
    ("llama-2-70b", 68.977),
    ("smollm2-135m", 0.1345),
  ],
)
def test_parameters_of_known_models(name, billions):
  config = presets.preset(name)
  _, tree = shapes.model_weights(config, "bfloat16")
  assert shapes.size(tree) / 1e9 == pytest.approx(billions, abs=1e-3)
  parts = shapes.parts_of(tree, config.tied)
  assert sum(parts.values()) == shapes.size(tree)
  assert parts["head"] == config.vocab * config.width


def test_models_are_known_by_their_usual_names(tmp_path):
  known = presets.preset("llama-2-7b")
  assert shapes.model_shape("hf:meta-llama/Llama-2-7b-hf") == known
  assert shapes.model_shape("random:llama-2-7b") == known
  assert shapes.model_shape("hf:openai-community/gpt2-xl").blocks == 48
  with pytest.raises(UserError, match="downloads nothing"):
    shapes.model_shape("hf:nobody/nothing")
  with pytest.raises(UserError, match=r"config\.json"):
    shapes.model_shape(str(tmp_path))
  fields = {
    "model_type": "gpt2",
    "vocab_size": 9,
    "n_embd": 8,
    "n_layer": 4,
    "n_head": 2,
  }
  (tmp_path / "config.json").write_text(json.dumps(fields))
  assert shapes.model_shape(str(tmp_path)).width == 8


def test_more_devices_hold_less_each(run, needs):
  eight = Machine("eight", 8, 1e9, 1e12)
  one = placement.place(run, needs, eight, 8)
  two = placement.place(run, needs, eight, 8, model_axis=2)
  cached = placement.place(run, needs, eight, 8, cached=True)
  assert (one.data_axis, two.data_axis) == (8, 4)
  assert two.bytes["weights: suffix"] < one.bytes["weights: suffix"]
  assert two.bytes["editor"] < one.bytes["editor"]
  assert cached.bytes["weights: prefix"] == 0
  assert cached.total < one.total
  assert "fits: " in text.report("tiny", needs, one)


def test_every_process_reads_text_with_a_model_of_its_own(run, needs):
  divided = parallel.ShardingConfig(fsdp=True)
  whole = dataclasses.replace(
    run, run=dataclasses.replace(run.run, sharding=divided)
  )
  one = Machine("one", 8, 1e9, 1e12)
  four = dataclasses.replace(one, processes=4)
  alone = placement.place(whole, needs, one, 4, model_axis=2)
  apart = placement.place(whole, needs, four, 4, model_axis=2)
  copy = "weights: the step's own copy"
  assert alone.bytes[copy] == 0
  parts = [f"weights: {part}" for part in ("suffix", "head")]
  assert apart.bytes[copy] == sum(alone.bytes[part] for part in parts)
  # Of two devices, as if there were no others.
  two = placement.place(whole, needs, Machine("", 2, 1e9, 1e12), 1, 2)
  for part in (*parts, "weights: prefix", "weights: embedding"):
    assert apart.bytes[part] == two.bytes[part] > alone.bytes[part]
  for kind in ("editor", "optimizer", "gathered for the step"):
    assert apart.bytes[kind] == alone.bytes[kind]
  three = dataclasses.replace(one, processes=3)
  with pytest.raises(UserError, match="3 processes do not divide 8 devices"):
    placement.place(whole, needs, three, 8)


def test_an_editor_that_reads_tokens_has_the_prefix_loaded(run, needs):
  gated = dataclasses.replace(run.run.editor, method="ke")
  reads = dataclasses.replace(
    run, run=dataclasses.replace(run.run, editor=gated)
  )
  machine = Machine("one", 1, 1e9, 1e12)
  plain = placement.place(run, needs, machine, 1, cached=True)
  gated_too = placement.place(reads, needs, machine, 1, cached=True)
  assert plain.bytes["weights: prefix"] == 0
  assert gated_too.bytes["weights: prefix"] == needs.weights["prefix"]
  assert gated_too.bytes["prefix states being computed"] == 0


def test_the_least_that_fits_is_found(run, needs):
  whole = placement.place(run, needs, Machine("", 1, 1e9, 1e12), 1).total
  roomy = Machine("roomy", 4, 1.2 * whole, 1e12)
  assert placement.smallest_axis(run, needs, roomy) == 1
  batch = placement.largest_batch(run, needs, roomy)
  assert placement.place(run, needs, roomy, 4 * batch).fits
  assert not placement.place(run, needs, roomy, 4 * (batch + 1)).fits
  tiny = Machine("tiny", 4, 1000, 1e12)
  assert placement.smallest_axis(run, needs, tiny) is None
  assert placement.largest_batch(run, needs, tiny) == 0
  row = text.table_row("tiny", run, needs, tiny, cached=False)
  assert not row["fits"]
  assert text.table([row]).splitlines()[2] == (
    f"| tiny | loaded | no ({row['gb_per_device']:.1f}) |"
  )
  assert row["gb_per_device"] * 1e9 == placement.least(run, needs, tiny).total


def test_what_does_not_divide_says_what_would(run, needs):
  with pytest.raises(UserError, match="1, 2, 4, 8 would"):
    placement.place(run, needs, MACHINES[2], 8, model_axis=3)
  with pytest.raises(UserError, match="4 or 8 would"):
    placement.place(run, needs, Machine("", 4, 1e9, 1e12), 6)


@pytest.mark.slow
def test_the_command_prints_and_writes_a_plan(tmp_path):
  def plan(*arguments):
    return subprocess.run(
      [sys.executable, "-m", "instructedit_jax.plan", *arguments],
      cwd=ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu"},
      capture_output=True,
      text=True,
      check=False,
    )

  bad = plan("--devices=0")
  assert bad.returncode == 2
  assert bad.stderr.splitlines() == ["error: --devices=0: must be above 0"]
  out = tmp_path / "plan.json"
  good = plan(
    "--config=configs/quickstart.py",
    "--config.model=random:tiny-llama",
    "--memory_gb=1",
    f"--out={out}",
  )
  assert good.returncode == 0, good.stderr
  assert "fits: " in good.stdout
  held = json.loads(out.read_text())
  assert held["fits"]
  total = held["total_bytes_per_device"]
  assert total == sum(held["bytes_per_device"].values())


@pytest.mark.slow
def test_a_real_run_holds_what_was_planned(tmp_path):
  (tmp_path / "tiny.py").write_text(CONFIG)
  out = tmp_path / "bytes.json"
  done = subprocess.run(
    [
      *(sys.executable, "-m", "benchmarks.resident"),
      *(f"--config={tmp_path / 'tiny.py'}", f"--out={out}"),
    ],
    cwd=ROOT,
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "JAX_NUM_CPU_DEVICES": "1",
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "between steps" in done.stdout
  held = json.loads(out.read_text())
  planned, found = held["planned"], held["found"]
  assert planned["between steps"] == pytest.approx(
    found["between steps"], rel=1e-3
  )
  both = ("arguments of a step", "intermediate values")
  ours, theirs = (sum(side[key] for key in both) for side in (planned, found))
  assert ours == pytest.approx(theirs, rel=0.1)
  process = held["process"]
  assert process["libraries"] < process["model loaded"] < process["a few steps"]


def test_fully_sharded_arrays_are_gathered_for_a_step(run, needs):
  sharded = dataclasses.replace(
    run, run=_config(sharding=parallel.ShardingConfig(fsdp=True))
  )
  machine = Machine("four", 4, 1e9, 1e12)
  plain = placement.place(run, needs, machine, 4)
  divided = placement.place(sharded, needs, machine, 4)
  for kind in ("weights: suffix", "editor", "optimizer"):
    assert divided.bytes[kind] < plain.bytes[kind]
  assert plain.bytes["gathered for the step"] == 0
  assert divided.bytes["gathered for the step"] > 0
