"""What an instruction's embedding shows of it, before any editor reads it.

python -m instructedit_jax.experiments.embeddings \
  --config=configs/paper/embeddings.py --data=DIR --out=results/embeddings

Every description, alone and with every sentence of either scope behind it. A
linear probe is fitted to those that editors are trained with and asked about
the others: which task, which scope. No record and no editor is needed. With
`--config.encoder=DIR` the same is asked of a frozen sentence encoder.

Axes: N instructions, I coordinates.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instructedit_jax.digest import digest
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors.conditioner import pooled
from instructedit_jax.editors.trained import instruction_sequence
from instructedit_jax.evaluation.chunks import write_json
from instructedit_jax.experiments import sentence_encoder
from instructedit_jax.experiments.setup import Setup, require_pools, start
from instructedit_jax.experiments.writing import jsonable, table
from instructedit_jax.files import atomic_write
from instructedit_jax.models.language_model import load_model
from instructedit_jax.tasks import scopes
from instructedit_jax.tasks.instructions import (
  Instruction,
  InstructionPool,
  Split,
  fill,
)

NAME = "embeddings"
SPLITS: tuple[Split, ...] = ("seen", "held_out")
_RIDGE = 0.1
_LABELS, _TOPICS = ("positive", "negative"), ("Paris", "Bill Gates", "tea")


@dataclasses.dataclass(frozen=True)
class Said:
  """An instruction and what there is to tell of it; scope "" is none."""

  instruction: Instruction
  split: str
  task: str
  scope: str


@dataclasses.dataclass(frozen=True)
class Shown:
  """What one kind of embedding shows, in percent.

  Attributes:
    common: of its mean square, what all instructions share.
    largest: of its mean square, what lies in the two largest coordinates.
    task: held-out descriptions whose task the probe tells.
    scope: held-out descriptions and sentences whose scope it tells.
  """

  common: float
  largest: float
  task: float
  scope: float


def run(setup: Setup) -> None:
  """Reads all instructions and writes the table."""
  require_pools(setup)
  model = load_model(setup.config.model)
  said = instructions([setup.pools[task] for task in setup.tasks])
  sequences = [instruction_sequence(model, each.instruction) for each in said]
  states = [state.hidden for state in PrefixCache(model)(sequences)]
  found = _kinds("", states, said)
  if setup.config.encoder:
    texts = [each.instruction.alone() for each in said]
    others = sentence_encoder.states(setup.config.encoder, texts)
    found |= _kinds("sentence encoder: ", others, said)
  parts = [
    f"# What an instruction's embedding shows, {setup.config.model}",
    table(
      "embedding, to a root mean square of one",
      [f.name for f in dataclasses.fields(Shown)],
      [
        (name, [f"{value:.1f}" for value in dataclasses.astuple(each)])
        for name, each in found.items()
      ],
    ),
    f"{len(said)} instructions. Percent; "
    + " ".join((Shown.__doc__ or "").split("Attributes:")[1].split()),
    f"## Protocol\n\n- command: `{setup.command}`",
  ]
  with atomic_write(setup.out / "table.md") as path:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
  write_json(setup.out / "numbers.json", jsonable(found))
  stamp: dict[str, Any] = {
    "experiment": NAME,
    "command": setup.command,
    "config": json.loads(setup.config.to_json_best_effort()),
    "fingerprint": model.fingerprint,
    "scopes_sha256": digest(scopes.SENTENCES),
  }
  write_json(setup.out / "protocol.json", stamp)


def _kinds(
  of: str, states: Sequence[np.ndarray], said: Sequence[Said]
) -> dict[str, Shown]:
  """Every way to make one vector of tokens' states."""
  plain = _of(states, lambda hidden: hidden.mean(0))
  ours = _of(states, pooled)
  return {
    f"{of}mean of all states": shown(plain, said),
    f"{of}pooled": shown(ours, said),
    f"{of}pooled, whitened": shown(_whitened(ours, said), said),
  }


def instructions(pools: Sequence[InstructionPool]) -> list[Said]:
  """Every description of the pools under no scope and under every sentence."""
  found = []
  for pool in pools:
    for split in SPLITS:
      for number, text in enumerate(pool.of(split)):
        label = _LABELS[number % len(_LABELS)]
        topic = _TOPICS[number % len(_TOPICS)]
        plain = Instruction(pool.task, fill(text, label, topic))
        found.append(Said(plain, split, pool.task, ""))
        found += [
          Said(scopes.stated(plain, sentence), split, pool.task, scope)
          for scope, texts in scopes.SENTENCES.items()
          for sentence in texts[split]
        ]
  return found


def shown(embedding_NI: np.ndarray, said: Sequence[Said]) -> Shown:
  """What the embeddings show of what was said."""
  square = np.square(embedding_NI).mean()
  common = np.square(embedding_NI.mean(0)).mean() / square
  energy = np.sort(np.square(embedding_NI).mean(0))[::-1]
  tasks = [each.task for each in said]
  return Shown(
    100 * float(common),
    100 * float(energy[:2].sum() / energy.sum()),
    _told(embedding_NI, said, tasks, lambda each: not each.scope),
    _told(
      embedding_NI,
      said,
      [each.scope for each in said],
      lambda each: bool(each.scope),
    ),
  )


def _told(
  embedding_NI: np.ndarray,
  said: Sequence[Said],
  labels: Sequence[str],
  asked: Callable[[Said], bool],
) -> float:
  """Share of held-out labels that ridge regression on the seen ones tells."""
  names = sorted(set(labels))
  seen = np.array([each.split == "seen" and asked(each) for each in said])
  rest = np.array([each.split != "seen" and asked(each) for each in said])
  number = np.array([names.index(label) for label in labels])
  centred = embedding_NI - embedding_NI[seen].mean(0)
  target = np.eye(len(names))[number]
  kernel = centred @ centred[seen].T
  own = kernel[seen]
  ridge = _RIDGE * float(np.trace(own)) / embedding_NI.shape[1]
  offset = target[seen].mean(0)
  weights = np.linalg.solve(
    own + ridge * np.eye(len(own)), target[seen] - offset
  )
  guess = (kernel[rest] @ weights + offset).argmax(1)
  return 100 * float((guess == number[rest]).mean())


def _of(
  states: Sequence[np.ndarray], function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
  """Embeddings of a root mean square of one, float64 [N, I]."""
  rows = np.stack([function(hidden) for hidden in states]).astype(np.float64)
  return rows / np.sqrt(np.square(rows).mean(1, keepdims=True))


def _whitened(embedding_NI: np.ndarray, said: Sequence[Said]) -> np.ndarray:
  """By the mean and deviation of the seen ones, as an editor has them."""
  seen = embedding_NI[[each.split == "seen" for each in said]]
  return (embedding_NI - seen.mean(0)) / seen.std(0)


if __name__ == "__main__":
  start(NAME, run)
