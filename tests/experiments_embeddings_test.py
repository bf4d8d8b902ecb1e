"""What is said of instructions' embeddings is true of made-up ones."""

import json
import sys

import ml_collections
import numpy as np
import pytest

from instructedit_jax.digest import digest
from instructedit_jax.errors import UserError
from instructedit_jax.experiments import embeddings, sentence_encoder
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
     "limit": 0, "seeds": (0,), "encoder": _encoder(tmp_path / "encoder")}
  )  # fmt: skip
  work = {"out": tmp_path / "out", "work": tmp_path / "work"}
  embeddings.run(setup("embeddings", config, given={}, command="it", **work))
  numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
  assert numbers["pooled, whitened"]["common"] < 5
  assert len(numbers) == 6
  assert "sentence encoder: pooled" in numbers
  assert "`it`" in (tmp_path / "out" / "table.md").read_text()
  stamp = json.loads((tmp_path / "out" / "protocol.json").read_text())
  assert stamp["scopes_sha256"] == digest(scopes.SENTENCES)


def _encoder(folder):
  """A random little BERT with a vocabulary of letters."""
  import torch
  import transformers

  letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
  letters += [f"##{letter}" for letter in letters[4:]]
  folder.mkdir()
  (folder / "vocab.txt").write_text("\n".join(letters))
  transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(
    folder
  )
  torch.manual_seed(0)
  config = transformers.BertConfig(
    vocab_size=len(letters),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
  )
  transformers.BertModel(config).save_pretrained(folder)
  return str(folder)


def test_a_sentence_encoder_reads_texts(tmp_path):
  folder = _encoder(tmp_path / "encoder")
  short, long = sentence_encoder.states(folder, ["an end", "many " * 30])
  assert short.shape == (2 + 5, 16)  # one token a letter, and two around them
  assert long.shape == (32, 16)  # cut at what it can read
  alone = sentence_encoder.states(folder, ["an end"])[0]
  np.testing.assert_array_equal(short, alone)


def test_no_sentence_encoder(tmp_path, monkeypatch):
  with pytest.raises(UserError, match="has no config"):
    sentence_encoder.states(str(tmp_path), ["a"])
  (tmp_path / "config.json").write_text("{}")
  with pytest.raises(UserError, match="cannot be read as an encoder"):
    sentence_encoder.states(str(tmp_path), ["a"])
  monkeypatch.setitem(sys.modules, "torch", None)
  with pytest.raises(UserError, match="PyTorch reads it"):
    sentence_encoder.states(str(tmp_path), ["a"])
