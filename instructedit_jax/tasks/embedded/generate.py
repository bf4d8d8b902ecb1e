"""Writes the embedded data files; run only to change them.

python -m instructedit_jax.tasks.embedded.generate
"""

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from instructedit_jax import app
from instructedit_jax.files import atomic_write
from instructedit_jax.tasks.embedded import compose, facts, opinions
from instructedit_jax.tasks.embedded.facts import Entity
from instructedit_jax.tasks.embedded.wordings import WORDINGS

FOLDER = pathlib.Path(__file__).parent
SIZES = {"train": 500, "test": 200}
_SEED = 20240226

Raw = dict[str, Any]


def build() -> dict[str, list[Raw]]:
  """File name -> raw records; the same for the same package versions.

  Raises:
    UserError: a package is missing.
  """
  world = facts.entities()
  files: dict[str, list[Raw]] = {}
  for split, size in SIZES.items():
    mine = [entity for entity in world if _split(entity.name) == split]
    files |= _fact_files(mine, world, split, size)
    files[f"convsent_{split}.json"] = _conversations(mine, split, size)
  return files


def main(argv: Sequence[str] = ()) -> None:
  """Builds and writes all files."""
  del argv
  for name, records in build().items():
    text = json.dumps(records, ensure_ascii=False, separators=(",", ":"))
    # One record a line: readable diffs for eight more bytes a record.
    text = text.replace('},{"subject"', '},\n{"subject"')
    text = text.replace('},{"ent"', '},\n{"ent"')
    with atomic_write(FOLDER / name) as path:
      path.write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {len(records)} records, {len(text) / 1e3:.0f} kB")


def _split(name: str) -> str:
  """Train or test, by name alone, in the proportion of their sizes."""
  draw = hashlib.sha256(name.encode()).digest()[0] / 256
  share = SIZES["train"] / sum(SIZES.values())
  return "train" if draw < share else "test"


def _fact_files(
  mine: Sequence[Entity], world: Sequence[Entity], split: str, size: int
) -> dict[str, list[Raw]]:
  """The three fact tasks of a split; no fact is edited by two of them."""
  rng = np.random.default_rng([_SEED, len(split)])
  composer = compose.Composer(mine, world, rng)
  pairs = _pairs(mine, rng)
  # Every other fact that can be news is news; the rest may be made false.
  recent = [p for p in pairs if WORDINGS[p[0].kind, p[1]].recent][
    : 2 * size : 2
  ]
  taken = {(entity.name, relation) for entity, relation in recent}
  rest = [p for p in pairs if (p[0].name, p[1]) not in taken]
  if len(recent) < size or len(rest) < 2 * size:
    raise ValueError(f"too few facts for {split}: {len(pairs)}")
  edits = [composer.false_edit(*pair) for pair in rest[: 2 * size]]
  return {
    f"wikirecent_{split}.json": [composer.recent(*p) for p in recent],
    f"counterfact_{split}.json": [
      composer.counterfact(edit) for edit in edits[:size]
    ],
    f"zsre_{split}.json": [composer.zsre(edit) for edit in edits[size:]],
  }


def _pairs(
  entities: Sequence[Entity], rng: np.random.Generator
) -> list[tuple[Entity, str]]:
  """All (entity, relation), shuffled, relations taking turns.

  Without the turns the many cities would leave little room for the rest.
  """
  by_relation: dict[tuple[str, str], list[Entity]] = {}
  for entity in entities:
    for relation in entity.facts:
      by_relation.setdefault((entity.kind, relation), []).append(entity)
  turns = []
  for (_, relation), found in by_relation.items():
    for turn, index in enumerate(rng.permutation(len(found))):
      turns.append((turn, float(rng.random()), found[index], relation))
  turns.sort(key=lambda item: item[:2])
  return [(entity, relation) for _, _, entity, relation in turns]


def _conversations(mine: Sequence[Entity], split: str, size: int) -> list[Raw]:
  rng = np.random.default_rng([_SEED, len(split), 1])
  # No countries: nobody should have to read that theirs is terrible.
  kinds = {"city": "place", "element": "thing"}
  topics = [
    (name, kind)
    for kind, names in opinions.topics().items()
    for name in names
    if _split(name) == split
  ]
  # Our own lists first; places and metals fill up what is missing.
  places = [(e.name, kinds[e.kind]) for e in mine if e.kind in kinds]
  picked = rng.permutation(len(places))[: size - len(topics)]
  topics += [places[i] for i in picked]
  order = rng.permutation(len(topics))
  return [
    opinions.conversation(topic, kind, rng)
    for topic, kind in (topics[i] for i in order)
  ]


if __name__ == "__main__":
  app.run(main)
