r"""Meta-training: episodes a second, memory and time to a loss.

  python -m benchmarks.training --data=DIR --out=training.json
  python -m benchmarks.training --quick --data=embedded --what=speed

Same model, same records, both sides on all cores, in turns. PyTorch runs (a)
the released step, one record at a time through the whole model, rank 1920, and
(b) our own step, batched as a good PyTorch engineer would. Ours runs with
prefix states kept ("cached") and computed anew for every batch ("not cached").

--what names the parts, in this order:
  speed    episodes a second, facts
  convsent the same, opinions: 20 strings a side
  loss     seconds until the released code's validation measure is reached
  memory   peak of a training process of each side
"""

from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from benchmarks import (
  convergence,
  conversations,
  memory,
  options,
  rows,
  steps,
)
from benchmarks.peer import language_model
from benchmarks.rows import Row
from benchmarks.timing import side_by_side
from instructedit_jax import app
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel, load_model

_PARTS = ("speed", "convsent", "loss", "memory")
_WHAT = flags.DEFINE_list("what", list(_PARTS), "Parts to measure.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 16, "Of ours, to the loss.")


def main(argv: Sequence[str]) -> None:
  """Measures and prints."""
  del argv
  unknown = [part for part in _WHAT.value if part not in _PARTS]
  if unknown:
    raise UserError(f"--what={unknown[0]}: none of {', '.join(_PARTS)}")
  model = load_model(options.MODEL.value, suffix=options.SUFFIX.value)
  found: list[Row] = []
  peer = language_model.load(model)
  facts = options.tasks("counterfact", "wikirecent")
  if "speed" in _WHAT.value:
    found += speed(model, peer, facts)
  if "convsent" in _WHAT.value:
    found += conversations.measure(model, peer)
  if "loss" in _WHAT.value:
    found += convergence.measure(
      model, peer, facts, 4 if options.QUICK.value else _MAX_STEPS.value
    )
  del peer
  if "memory" in _WHAT.value:
    found += memory.measure(model, facts)
  rows.finish(found, options.OUT.value)


def speed(
  model: LanguageModel, peer: language_model.Peer, tasks: Sequence[str]
) -> list[Row]:
  """Episodes a second on facts."""
  runs = steps.variants(tasks, 3)
  ours = {name: steps.Ours(model, config) for name, config in runs.items()}
  released = steps.Released(model, tasks)
  programs: dict[str, Callable[[], Any]] = {}
  for name, side in ours.items():
    side.warm()
    programs[f"{name}, prefix cached"] = side.cached
    programs[f"{name}, prefix not cached"] = side.uncached
    programs[f"{name}, batched"] = steps.BatchedPeer(peer, side)
  programs["released"] = released.in_torch(peer)
  programs["released in JAX"] = released.in_jax()
  work = dict.fromkeys(programs, float(options.BATCH.value))
  work |= {"released": 1.0, "released in JAX": 1.0}
  count = options.repeats(7)
  times = side_by_side(programs, count, work)
  common = {
    "model": options.MODEL.value,
    "data": options.DATA.value,
    "tasks": list(tasks),
    "batch": options.BATCH.value,
    "repeats": count,
    "torch": language_model.version(),
  }
  found = []
  for name in (steps.SAME, steps.SHORT, steps.DEFAULT):
    rank = runs[name].editor.network.rank
    for kept in ("cached", "not cached"):
      for other in ("released", f"{name}, batched"):
        peers = other.removeprefix(f"{name}, ")
        found.append(
          rows.rate(
            f"training, {name}, rank {rank}, prefix {kept}, vs {peers}",
            times[f"{name}, prefix {kept}"],
            times[other],
            "episodes/s",
            rank=rank,
            **ours[name].lengths(),
            **(released.lengths() if other == "released" else {}),
            **common,
          )
        )
  found.append(
    rows.rate(
      "training, released step in JAX, one record, vs released",
      times["released in JAX"],
      times["released"],
      "episodes/s",
      rank=options.RANK.value,
      **released.lengths(),
      **common,
    )
  )
  return found


if __name__ == "__main__":
  app.run(main)
