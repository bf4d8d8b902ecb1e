"""Figure 4a, b: where editors edit, and whether tasks have places of their own.

python -m instructedit_jax.experiments.editing_area \
  --config=configs/paper/editing_area.py --data=DIR --out=results/editing_area \
  --editors=mend=DIR0,instructedit=DIR1

For the first records of each task, all of them, the direction of the update at
each stage of `directions`, its t-SNE picture, and numbers that the picture
cannot give: silhouette, cosines within and between tasks, and how well a linear
probe tells the task.

A prefix is read before the prompt, so its tokens are alike in all prompts with
the same description: directions may fall into groups whatever the hypernetwork
does. The controls say how much: the gradient before any hypernetwork, what an
untrained one returns, no instruction, unrelated words, another task's
instruction, and one drawn for each record. The last is labelled twice, by the
record's task and by the instruction's: only if the second separates better does
the instruction make the place.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editors import metalearned
from instructedit_jax.editors.base import Request
from instructedit_jax.editors.trained import TrainedEditor, load_editor
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import protocol
from instructedit_jax.evaluation.chunks import write_json
from instructedit_jax.evaluation.options import Options
from instructedit_jax.experiments import gram, pictures
from instructedit_jax.experiments.directions import (
  OTHERS,
  STAGES,
  Updates,
  updates,
)
from instructedit_jax.experiments.embedding import tsne
from instructedit_jax.experiments.entrants import dtype, entrants
from instructedit_jax.experiments.loaded import Models
from instructedit_jax.experiments.separation import Separation, separation
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.writing import jsonable, table
from instructedit_jax.files import atomic_write
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.record import Record
from instructedit_jax.tasks.splits import find_file, load_split

NAME = "editing_area"
_QUANTILES = (5, 25, 50, 75, 95)


@dataclasses.dataclass(frozen=True)
class Area:
  """One editor's directions at one stage under one choice of instruction.

  Attributes:
    editor, seed, told, stage: what it is of; seed counts its folders.
    label: "record" or "instruction", whose task groups the directions.
    whole: of the mean over matrices of their cosines.
    matrices: of each matrix by itself.
    norms: task -> matrix -> quantiles of the updates' norms.
  """

  editor: str
  seed: int
  told: str
  stage: str
  label: str
  whole: Separation
  matrices: dict[str, Separation]
  norms: dict[str, dict[str, list[float]]]


@dataclasses.dataclass(frozen=True)
class Picture:
  """Points of one panel with their groups."""

  title: str
  cosine: np.ndarray
  tasks: list[str]


# stage -> its numbers under each labelling, and mean cosines.
Made = dict[str, tuple[list[Area], np.ndarray]]


def run(setup: Setup) -> None:
  """Computes all areas, draws them and writes the numbers."""
  found, failed = entrants(setup)
  records = records_of(setup)
  areas: list[Area] = []
  panels: list[Picture] = []
  stamps = []
  models = Models(setup.config.model, dtype(found, setup.dtype))
  for entrant in found:
    for seed, spec in enumerate(entrant.specs):
      try:
        stamp, made = _looked_at(
          setup, models, records, (entrant.name, seed, spec)
        )
      except UserError as error:
        logging.error("%s: %s", entrant.name, error)
        failed[f"{entrant.name}, seed {seed}"] = str(error)
        continue
      stamps.append(stamp)
      for told, stages in made.items():
        for stage, (mine, cosine) in stages.items():
          areas += mine
          if seed == 0 and stage == setup.config.pictured:
            title = f"{entrant.name}, told {told}"
            panels.append(Picture(title, cosine, [r.task for r in records]))
  if not areas:
    raise UserError(next(iter(failed.values())))
  _write(setup, areas, records, stamps, failed)
  for perplexity in setup.config.perplexities if panels else ():
    tasks = panels[0].tasks
    pictures.scatters(
      {p.title: tsne(p.cosine, perplexity) for p in panels},
      tasks,
      setup.out / f"figure-perplexity{perplexity:g}.png",
      f"Direction of the {setup.config.pictured} update, t-SNE, perplexity"
      f" {perplexity:g}",
    )


def _looked_at(
  setup: Setup,
  models: Models,
  records: Sequence[Record],
  place: tuple[str, int, str],
) -> tuple[dict[str, Any], dict[str, Made]]:
  """What an editor is, and its areas under each choice of instruction.

  Raises:
    UserError: it cannot be read, or cannot edit this model or these records.
  """
  name, seed, spec = place
  editor = load_editor(spec)
  model, cache = models(editor)
  made = {}
  for told in tellings(setup, editor):
    logging.info("%s, seed %d, told %s", name, seed, told)
    means = (model, editor, cache)
    made[told] = areas_of(setup, means, records, (name, seed, told))
  stamp = {
    "name": name,
    "seed": seed,
    "editor": protocol.editor_stamp(editor),
    "model": protocol.model_stamp(model),
  }
  return stamp, made


def records_of(setup: Setup) -> list[Record]:
  """The first records of each task."""
  return [
    record
    for task in setup.tasks
    for record in load_split(setup.data, task, "test")[0][: setup.limit or None]
  ]


def tellings(setup: Setup, editor: TrainedEditor) -> tuple[str, ...]:
  """The choices of instruction that make a difference to an editor."""
  if editor.config.method in ("mend", metalearned.KE):
    return ("none",)
  return tuple(setup.config.told)


def stages_of(setup: Setup, editor: TrainedEditor) -> tuple[str, ...]:
  """The stages that an editor has."""
  if editor.config.method == metalearned.KE:
    return tuple(s for s in setup.config.stages if s in OTHERS)
  return tuple(setup.config.stages)


def areas_of(
  setup: Setup,
  means: tuple[LanguageModel, TrainedEditor, PrefixCache],
  records: Sequence[Record],
  place: tuple[str, int, str],
) -> Made:
  """stage -> numbers under each labelling that there is, and cosines."""
  told = place[-1]
  options = Options(instruction=told, pools=setup.pools)
  instructions = [options.instruction_of(record) for record in records]
  requests = [
    Request(record.prompt, record.target, instruction)
    for record, instruction in zip(records, instructions, strict=True)
  ]
  model, editor, cache = means
  labels = {"record": np.array([record.task for record in records])}
  if told.startswith("shuffled"):
    drawn = [each.task for each in instructions if each is not None]
    labels["instruction"] = np.array(drawn)
  stages = stages_of(setup, editor)
  made = updates(model, editor, requests, stages, cache)
  return {s: areas_at((*place, s), made.pop(s), labels) for s in stages}


def areas_at(
  place: tuple[str, int, str, str],
  made: Updates,
  labels: Mapping[str, np.ndarray],
) -> tuple[list[Area], np.ndarray]:
  """The numbers of one stage under each labelling, and the mean cosines."""
  grams = {
    matrix: gram.inner_products(made.u[matrix], made.v[matrix])
    for matrix in made.u
  }
  cosine = {matrix: gram.cosines(each) for matrix, each in grams.items()}
  whole = np.mean(list(cosine.values()), 0)
  tasks = labels["record"]
  norms = {
    str(task): {
      matrix: _quantiles(gram.norms(each)[tasks == task])
      for matrix, each in grams.items()
    }
    for task in np.unique(tasks)
  }
  name, seed, told, stage = place
  areas = [
    Area(
      *(name, seed, told, stage, label),
      separation(whole, groups),
      {m: separation(each, groups) for m, each in cosine.items()},
      norms,
    )
    for label, groups in labels.items()
  ]
  return areas, whole


def _quantiles(values: np.ndarray) -> list[float]:
  return [float(f"{v:.6g}") for v in np.percentile(values, _QUANTILES)]


def area_table(areas: Sequence[Area]) -> str:
  """One line an editor, choice and stage; several seeds as low to high."""
  heads = [
    *("silhouette", "cosine within", "cosine between"),
    *("probe, %", "probe, random labels, %"),
  ]
  keys = dict.fromkeys((a.editor, a.told, a.stage, a.label) for a in areas)
  lines = []
  for key in keys:
    mine = [
      a.whole for a in areas if (a.editor, a.told, a.stage, a.label) == key
    ]
    editor, told, stage, label = key
    probe = _range([each.probe for each in mine], 1)
    if len(mine) == 1:
      probe += f" [{mine[0].low:.1f}, {mine[0].high:.1f}]"
    lines.append(
      (
        f"{editor}, told {told}, {stage}, by {label}",
        [
          _range([each.silhouette for each in mine], 3),
          _range([each.within for each in mine], 3),
          _range([each.between for each in mine], 3),
          probe,
          _range([each.shuffled for each in mine], 1),
        ],
      )
    )
  return table("editor, instruction, stage, labels", heads, lines)


def task_table(areas: Sequence[Area], stage: str) -> str:
  """Cosines of each task's directions with each other, and with the rest's."""
  mine = [a for a in areas if a.stage == stage and a.label == "record"]
  tasks = list(dict.fromkeys(task for a in mine for task in a.whole.groups))
  seeds: dict[str, list[Area]] = {}
  for area in mine:
    seeds.setdefault(f"{area.editor}, told {area.told}", []).append(area)

  def cell(areas: Sequence[Area], task: str) -> str:
    own, rest = zip(*(a.whole.groups[task] for a in areas), strict=True)
    return f"{_range(own, 2)} / {_range(rest, 2)}"

  lines = [
    (k, [cell(each, task) for task in tasks]) for k, each in seeds.items()
  ]
  return table("editor, instruction", tasks, lines)


def norm_table(areas: Sequence[Area], stage: str) -> str:
  """Median and 95th over 5th percentile of norms, the mean over matrices."""
  mine = [
    a for a in areas if a.stage == stage and a.label == "record" and a.seed == 0
  ]
  tasks = list(dict.fromkeys(task for area in mine for task in area.norms))
  lines = []
  for area in mine:
    cells = []
    for task in tasks:
      low, _, median, _, high = np.mean(list(area.norms[task].values()), 0)
      ratio = high / low if low > 0 else float("inf")
      cells.append(f"{median:.4g}, x{ratio:.2g}")
    lines.append((f"{area.editor}, told {area.told}", cells))
  return table("editor, instruction", tasks, lines)


def _range(values: Sequence[float], digits: int) -> str:
  low, high = (f"{pick(values):.{digits}f}" for pick in (min, max))
  return low if low == high else f"{low} to {high}"


def _write(
  setup: Setup,
  areas: Sequence[Area],
  records: Sequence[Record],
  stamps: Sequence[Mapping[str, Any]],
  failed: Mapping[str, str],
) -> None:
  counts = ", ".join(
    f"{task} {sum(r.task == task for r in records)}" for task in setup.tasks
  )
  stage = setup.config.pictured
  parts = [
    f"# Editing areas, {setup.config.model}",
    f"Test records, unselected: {counts}. Cosines are means over the editable"
    " matrices of the cosine of the two updates of that matrix. The silhouette"
    " is of the distance 1 - cosine; the probe is linear, cross-validated in"
    " five folds. Several seeds are shown as lowest to highest.",
    area_table(areas),
    f"## Cosines of the {stage} update, task by task",
    "Mean cosine of two directions of the task / of one of them and one of"
    " another task.",
    task_table(areas, stage),
    f"## Norms of the {stage} update",
    "Median, and how often the 5th percentile goes into the 95th; means over"
    " matrices; seed 0.",
    norm_table(areas, stage),
  ]
  if failed:
    parts.append(
      "## Failed\n\n" + "\n".join(f"- {k}: {v}" for k, v in failed.items())
    )
  parts.append(f"## Protocol\n\n- command: `{setup.command}`")
  with atomic_write(setup.out / "table.md") as path:
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
  write_json(setup.out / "numbers.json", jsonable(areas))
  data = {
    task: protocol.data_stamp(
      find_file(setup.data, task, "test"),
      "test",
      [r for r in records if r.task == task],
    )
    for task in setup.tasks
  }
  stamp = {
    "experiment": NAME,
    "command": setup.command,
    "config": {
      key: list(value) if isinstance(value, tuple) else value
      for key, value in setup.config.items()
      if key != "editors"
    },
    "limit": setup.limit,
    "quantiles": _QUANTILES,
    "data": data,
    "editors": stamps,
    "pools": Options(pools=setup.pools).protocol()["pools_sha256"],
    "failed": failed,
  }
  write_json(setup.out / "protocol.json", stamp)


def checked(setup: Setup) -> Setup:
  """Refuses, before anything is trained, what could not be computed.

  Raises:
    UserError: an unknown stage, a pictured one that is none of those computed,
      or a choice of instruction that means nothing for some record.
  """
  for stage in setup.config.stages:
    if stage not in STAGES:
      raise UserError(
        f"config.stages: {stage!r} is none of {', '.join(STAGES)}"
      )
  if setup.config.pictured not in setup.config.stages:
    raise UserError(
      f"config.pictured: {setup.config.pictured!r} is none of config.stages,"
      f" {', '.join(setup.config.stages)}"
    )
  records = records_of(setup)
  for told in setup.config.told:
    options = Options(instruction=told, pools=setup.pools)
    for record in records:
      options.instruction_of(record)
  return setup


if __name__ == "__main__":
  start(NAME, lambda setup: run(checked(setup)))
