"""What is said of instructions' embeddings is true of made-up ones."""

import json

import ml_collections
import numpy as np
import pytest

from instructedit_jax.digest import digest
from instructedit_jax.experiments import embeddings
from instructedit_jax.experiments.setup import setup
from instructedit_jax.tasks import scopes
from instructedit_jax.tasks.instructions import POOLS

SAID = embeddings.instructions([POOLS[task] for task in ("zsre", "convsent")])


def test_every_description_is_said_under_every_sentence():
  assert len({each.instruction for each in SAID}) == len(SAID)
  held_out = [each for each in SAID if each.split == "held_out"]
  sentences = sum(len(t["held_out"]) for t in scopes.SENTENCES.values())
  count = sum(len(POOLS[task].held_out) for task in ("zsre", "convsent"))
  assert len(held_out) == count * (1 + sentences)
  assert not any("[" in each.instruction.description for each in SAID)


def test_what_is_there_is_shown():
  rng = np.random.default_rng(0)
  rows = rng.normal(size=(len(SAID), 12))
  rows[:, 0] = [10.0 * (each.task == "zsre") for each in SAID]
  rows[:, 1] = 500
  found = embeddings.shown(rows, SAID)
  assert found.task == 100
  assert 30 < found.scope < 70  # nothing there tells it
  assert found.common > 99
  assert found.largest > 99
  rows[:, 2] = [50.0 * (each.scope == "wide") for each in SAID]
  assert embeddings.shown(rows, SAID).scope == 100


@pytest.mark.slow
def test_the_command_leaves_its_files(tmp_path):
  config = ml_collections.ConfigDict(
    {"model": "random:tiny-llama", "tasks": ("zsre",), "data": "embedded",
     "limit": 0, "seeds": (0,)}
  )  # fmt: skip
  work = {"out": tmp_path / "out", "work": tmp_path / "work"}
  embeddings.run(setup("embeddings", config, given={}, command="it", **work))
  numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
  assert numbers["pooled, whitened"]["common"] < 5
  assert "`it`" in (tmp_path / "out" / "table.md").read_text()
  stamp = json.loads((tmp_path / "out" / "protocol.json").read_text())
  assert stamp["scopes_sha256"] == digest(scopes.SENTENCES)
