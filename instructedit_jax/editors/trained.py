"""A trained editor: learned numbers, and the model they were learned for."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from flax import nnx

from instructedit_jax import checkpoints
from instructedit_jax.editing.edits import LowRankEdit
from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.rows import Rows, rows_of
from instructedit_jax.editing.sequences import (
  Scored,
  Sizes,
  pack_rounded,
  score,
  unscored,
)
from instructedit_jax.editors import (
  conditioner,
  gating,
  hypernetwork,
  insistence,
  restraint,
  trainable,
)
from instructedit_jax.editors.answers import answers_of
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.metalearned import (
  SAID,
  Condition,
  EditorConfig,
  Params,
)
from instructedit_jax.editors.requests import RequestLike, as_requests
from instructedit_jax.errors import UserError
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.instructions import Instruction

_SIZES = Sizes((1, 4, 16, 64), (32, 64, 96, 128, 192, 256), (8, 16, 32))


@dataclasses.dataclass(frozen=True)
class TrainedEditor:
  """MEND, InstructEdit or KnowledgeEditor, ready for use.

  Attributes:
    config: what it is.
    params, statistics: its learned numbers.
    fingerprint: of the base model it was trained for.
    suffix: editable blocks of that model.
    details: anything else worth keeping: data, steps, validation metrics.
  """

  config: EditorConfig
  params: Params
  statistics: Any
  fingerprint: str
  suffix: int
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """The method's name."""
    return self.config.method

  def propose_each(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> LowRankEdit:
    """One independent edit a request, [B, R, ...].

    Args:
      model: the model this editor was trained for.
      requests: what to change; each is answered as if it were alone. Dicts
        and tuples will do, see `as_requests`.
      cache: keeps prefix states between calls.

    Raises:
      UserError: another model, a prompt that is too long, or no request.
    """
    self.check(model)
    requests = as_requests(requests)
    if not requests:
      raise UserError("no edit request was given")
    cache = PrefixCache(model) if cache is None else cache
    rows, condition = self.inputs(model, requests, cache)
    edit = _propose(
      self.config,
      model.graph,
      model.params,
      self.params,
      self.statistics,
      rows,
      condition,
    )
    return edit[: len(requests)]

  def propose(
    self,
    model: LanguageModel,
    requests: RequestLike | Sequence[RequestLike],
    cache: PrefixCache | None = None,
  ) -> LowRankEdit:
    """One edit that makes every request: the requests' edits, added up."""
    return self.propose_each(model, requests, cache).combined()

  def using(self, **changes: float) -> Self:
    """This editor, used in another way.

    Args:
      changes: another `EditorConfig.enough` or `insist`. With enough=0.005
        nats neighbours of an easy fact and the text after its answer are
        spared, and some wordings of it no longer follow.

    Raises:
      UserError: a value that makes no sense.
    """
    config = dataclasses.replace(self.config, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(self, config=config)

  def check(self, model: LanguageModel) -> None:
    """Raises a UserError unless this editor belongs to `model`."""
    if model.fingerprint != self.fingerprint:
      raise UserError(
        f"this editor was trained for another model than {model.name} (its"
        f" weights are {self.fingerprint[:12]}…, the model's"
        f" {model.fingerprint[:12]}…); load the model named in its editor.json:"
        f" {self.details.get('model', 'unknown')}"
      )
    if model.config.suffix != self.suffix:
      raise UserError(
        f"this editor edits the last {self.suffix} blocks, but the model was"
        f" loaded with {model.config.suffix}; load_model(..., suffix="
        f"{self.suffix})"
      )

  def save(self, directory: str | os.PathLike[str]) -> None:
    """Writes a self-contained folder that `load_editor` reads."""
    checkpoints.save_editor(
      directory,
      self.params,
      self.statistics,
      {
        "editor": dataclasses.asdict(self.config),
        "fingerprint": self.fingerprint,
        "suffix": self.suffix,
        "details": dict(self.details),
      },
    )

  def inputs(
    self,
    model: LanguageModel,
    requests: Sequence[Request],
    cache: PrefixCache,
  ) -> tuple[Rows, Condition]:
    """The requests as padded arrays: rows, and what else is said of them."""
    edits = [self._views(model, request) for request in requests]
    told = [
      instruction_sequence(model, request.instruction)
      for request in requests
      if request.instruction is not None
    ]
    cache.warm([*(view for views in edits for view in views), *told])
    packed = pack_rounded(edits, _SIZES)
    count = len(packed.tokens)
    width = model.config.width
    rows = rows_of(packed, [cache(views) for views in edits], width)
    given = np.zeros(count, bool)
    given[: len(requests)] = [r.instruction is not None for r in requests]
    said = np.zeros((count, conditioner.size(width)), np.float32)
    if told:
      said[given] = [conditioner.pooled(state.hidden) for state in cache(told)]
    return rows, Condition(said, given, packed.tokens)  # type: ignore[arg-type]

  def _views(self, model: LanguageModel, request: Request) -> list[Scored]:
    return [
      score(
        model.text,
        prompt,
        request.target,
        context=model.config.context,
        limit=self.config.answer_tokens,
      )
      for prompt in self.config.views(
        request.instruction, request.prompt, request.other_form
      )
    ]


def instruction_sequence(
  model: LanguageModel, instruction: Instruction
) -> Scored:
  """The tokens whose prefix states stand for an instruction."""
  return unscored(model.text, instruction.alone())


def load_editor(directory: str | os.PathLike[str]) -> TrainedEditor:
  """Reads an editor folder, or the `editor` folder of a training run.

  Raises:
    UserError: nothing is there, or it is damaged or of another version.
  """
  folder = pathlib.Path(directory)
  if not (folder / "editor.json").exists() and (folder / "editor").is_dir():
    folder = folder / "editor"
  arrays, metadata = checkpoints.load_editor_arrays(folder)
  try:
    config = dict(metadata["editor"])
    config["network"] = hypernetwork.HypernetworkConfig(**config["network"])
    config["conditioner"] = conditioner.ConditionerConfig(
      **config["conditioner"]
    )
    # Editors from before there were gates have none.
    config["gates"] = gating.GatingConfig(**config.get("gates", {}))
    editor = EditorConfig(**config)
    # No arrays, no entry: KnowledgeEditor has no statistics.
    statistics = _moments(arrays.get("statistics", {}))
    if editor.conditioned and SAID not in statistics:
      raise KeyError("no statistics of instructions")
    return TrainedEditor(
      editor,
      arrays["params"],
      statistics,
      metadata["fingerprint"],
      metadata["suffix"],
      metadata["details"],
    )
  except (KeyError, TypeError) as error:
    raise UserError(
      f"{folder}/editor.json: not an editor of this version ({error}); train or"
      " export it again"
    ) from error


def _moments(nested: Mapping[str, Any]) -> hypernetwork.Statistics:
  """Plain dicts, as stored, back to statistics."""
  return {
    key: {
      side: hypernetwork.stats.Moments(**moments)
      for side, moments in sides.items()
    }
    for key, sides in nested.items()
  }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _propose(
  config: EditorConfig,
  graph: nnx.GraphDef,
  weights: nnx.State,
  params: Params,
  statistics: Any,
  rows: Rows,
  condition: Condition,
) -> LowRankEdit:
  model, method = nnx.merge(graph, weights), trainable.of(config)
  seen, _ = method.look(model, rows, config)
  common = (params, statistics, config, model, rows)
  edit = method.propose(*common, seen, condition)
  answers = answers_of(edit, model, rows)
  if method.further is not None:
    another = functools.partial(method.further, *common, condition)
    edit, answers = insistence.insisted(
      edit, answers, model, rows, another, config.insist
    )
  return restraint.restrained(edit, answers, model, rows, config.enough)
