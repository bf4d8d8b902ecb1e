"""A step on many devices is the step on one."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from instructedit_jax import parallel
from instructedit_jax.errors import UserError
from instructedit_jax.parallel import ShardingConfig, make_mesh
from instructedit_jax.training import programs
from tests import tiny_parallel as tiny
from tests import tiny_run


@pytest.fixture(scope="module")
def model():
  return tiny_run.model()


@pytest.fixture(scope="module")
def alone(model):
  return tiny.outcome(tiny.config("1x1"), model)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["4x1,fsdp", "1x4", "2x2,fsdp"])
def test_a_step_on_four_devices(model, alone, mesh):
  tiny.require_equal(tiny.outcome(tiny.config(mesh), model), alone)


@pytest.mark.parametrize("mesh", ["2x1", "1x2"])
def test_a_step_on_two_devices(model, alone, mesh):
  tiny.require_equal(tiny.outcome(tiny.config(mesh), model), alone)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["dots", "full"])
def test_what_a_block_keeps_changes_no_number(model, alone, policy):
  run = tiny.config("1x1", remat=policy)
  tiny.require_equal(tiny.outcome(run, model), alone)


@pytest.mark.slow
def test_a_step_on_eight_devices():
  """In a process of its own: this one has four."""
  meshes = ("8x1", "2x4,fsdp", "1x8")
  done = subprocess.run(
    [sys.executable, "-m", "tests.tiny_parallel", "8", *meshes],
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == [w for m in meshes for w in ("equal", m)]


def test_arrays_lie_where_the_rules_say(model):
  run = tiny.config("2x2,fsdp")
  mesh = make_mesh(run.mesh, run.batch_size, jax.devices())
  placed = programs.divided(model, run, mesh)
  up = placed.params["suffix_blocks"][0]["mlp"]["up"]["kernel"][...]
  assert up.sharding.shard_shape(up.shape) == (16, 32)
  stack = placed.params["prefix_blocks"]["mlp"]["down"]["kernel"][...]
  assert stack.sharding.shard_shape(stack.shape) == (2, 32, 16)
  np.testing.assert_array_equal(
    stack, model.params["prefix_blocks"]["mlp"]["down"]["kernel"][...]
  )
  # Nothing is divided by the rules of one that has the devices to itself.
  plain = tiny.config("4x1")
  flat = make_mesh(plain.mesh, plain.batch_size, jax.devices())
  assert programs.divided(model, plain, flat) is model


def test_a_process_reads_text_on_its_own_device(model):
  """Loaded into the host's memory, divided by nobody: it still has to move."""
  own = jax.devices()[1]
  run = tiny.config("1x1,fsdp")
  placed = programs.divided(model, run, make_mesh(run.mesh, devices=[own]))
  for leaf in jax.tree.leaves(placed.params):
    assert leaf.devices() == {own}


def test_rules_of_the_configuration_reach_the_weights(model):
  rules = ((r"head\.kernel$", ("model", "data")), (".*", ()))
  run = dataclasses.replace(
    tiny.config("2x2"), sharding=ShardingConfig(weights=rules)
  )
  mesh = make_mesh(run.mesh, run.batch_size, jax.devices())
  placed = programs.divided(model, run, mesh)
  head = placed.params["head"]["kernel"][...]
  assert tuple(head.sharding.spec) == ("model", "data")
  odd = ((r"^embedding$", (("data", "model"),)), (".*", ()))
  run = dataclasses.replace(run, sharding=ShardingConfig(weights=odd))
  three = make_mesh(parallel.MeshConfig(3, 1), None, jax.devices()[:3])
  with pytest.raises(UserError, match="divides axis 0 of embedding, 272 long"):
    programs.divided(model, run, three)


def test_each_process_places_its_own_rows():
  mesh = make_mesh(parallel.MeshConfig(2, 2), 4, jax.devices())
  given = {"x": np.arange(12.0).reshape(4, 3)}
  at = parallel.shardings(given, ((".*", ("data",)),), mesh, "batch")
  rows = parallel.own_rows(at, 4)
  assert rows == [0, 1, 2, 3]  # one process has every device
  made = parallel.assemble(given, at, rows, 4)["x"]
  assert made.sharding.shard_shape(made.shape) == (2, 3)
  np.testing.assert_array_equal(made, given["x"])
