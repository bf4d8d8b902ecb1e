"""Measures how well editors' edits work, one record at a time.

python -m instructedit_jax.evaluate --editor=runs/quickstart --out=results
python -m instructedit_jax.evaluate --editor=base,runs/mend,runs/instructedit \
  --tasks=counterfact,zsre --data=FOLDER --limit=100 --out=results
python -m instructedit_jax.evaluate --editor=base,ft_l,ft_m,grace,ultraedit \
  --model=smollm2-135m --out=results

A method that needs no training is named, if wanted with other hyperparameters
than its defaults: --editor=ft_m:steps=50:rate=1e-3,grace:radius=2.

OUT gets summary.json, records.jsonl, protocol.json, table.md and figure.png.
The same command goes on where an earlier one was cut off. From Python, use
`instructedit_jax.evaluate`, the function.
"""

import shlex
import sys
from collections.abc import Sequence

from absl import flags

from instructedit_jax import app, report
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.options import QUERIES, Options
from instructedit_jax.evaluation.results import Results, merged_rows
from instructedit_jax.evaluation.run import run
from instructedit_jax.evaluation.settings import Settings
from instructedit_jax.tasks.instructions import POOLS, load_pools

_PROGRAM = ("python", "-m", "instructedit_jax.evaluate")
_DEFAULT = Options()
_EDITOR = flags.DEFINE_list(
  "editor",
  [],
  "Folders of trained editors, or names: base (the unedited model), ft_l, ft_m,"
  " grace, ultraedit, calinet.",
)
_OUT = flags.DEFINE_string("out", "", "Folder of the results.")
_MODEL = flags.DEFINE_string(
  "model", None, "Base model; by default the one that the editor names."
)
_DTYPE = flags.DEFINE_enum(
  "dtype", None, ["float32", "bfloat16"], "Of the weights; default as trained."
)
_TASKS = flags.DEFINE_list("tasks", None, "Tasks; by default all known ones.")
_DATA = flags.DEFINE_string(
  "data", None, "A folder, 'embedded' or 'hub'; default as trained."
)
_SPLIT = flags.DEFINE_string("split", "test", "Which records.")
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first N of each task.")
_QUERIES = flags.DEFINE_list(
  "queries", list(QUERIES), "How to ask: bare, instructed."
)
_INSTRUCTION = flags.DEFINE_string(
  "instruction",
  str(_DEFAULT.instruction),
  "Instruction given with each edit: seen:0, held_out:2, name, nonsense:0,"
  " other:0, shuffled:0, natural:0 or none, perhaps with +wide:0 or"
  " +verbatim:0; see instructedit_jax/evaluation/choices.py.",
)
_INSTRUCTIONS = flags.DEFINE_string(
  "instructions", None, "File of instruction pools; default the project's own."
)
_TOLD = flags.DEFINE_bool(
  "told", True, "Editors get it too, not only instructed questions."
)
_FREE = flags.DEFINE_bool("free", _DEFAULT.free, "Also generate answers.")
_FREE_LIMIT = flags.DEFINE_integer(
  "free_limit", None, "Generate for the first N records of each task only."
)
_FLUENCY_LIMIT = flags.DEFINE_integer(
  "fluency_limit", _DEFAULT.fluency_limit, "Fluency on the first N records."
)
_FLUENCY_TOKENS = flags.DEFINE_integer(
  "fluency_tokens", _DEFAULT.fluency_tokens, "New tokens of a fluency text."
)
_BATCH = flags.DEFINE_integer("batch", _DEFAULT.batch, "Edits made at once.")
_SEED = flags.DEFINE_integer("seed", 0, "Of sampled texts and intervals.")
_SHOW = flags.DEFINE_integer("show", 10, "Answers to print, before and after.")


def main(argv: Sequence[str]) -> None:
  """Evaluates and prints the table and some answers."""
  del argv
  if not _OUT.value:
    raise UserError("--out=FOLDER is missing: where should results go?")
  results = run(
    Settings(
      editors=tuple(_EDITOR.value),
      out=_OUT.value,
      model=_MODEL.value,
      dtype=_DTYPE.value,
      tasks=tuple(_TASKS.value) if _TASKS.value else None,
      data=_DATA.value,
      split=_SPLIT.value,
      limit=_LIMIT.value,
      queries=tuple(_QUERIES.value),
      told=_TOLD.value,
      options=Options(
        instruction=_INSTRUCTION.value,
        pools=load_pools(_INSTRUCTIONS.value) if _INSTRUCTIONS.value else POOLS,
        batch=_BATCH.value,
        free=_FREE.value,
        free_limit=_FREE_LIMIT.value,
        fluency_limit=_FLUENCY_LIMIT.value,
        fluency_tokens=_FLUENCY_TOKENS.value,
        seed=_SEED.value,
      ),
      command=shlex.join([*_PROGRAM, *sys.argv[1:]]),
    )
  )
  print(report.markdown(merged_rows(results)))
  shown = report.examples(_edited(results), _SHOW.value)
  if shown:
    print(f"editor  prompt -> before | after (target)\n{shown}\n")
  failed = sum(len(result.failed) for result in results)
  if failed:
    print(f"{failed} evaluations of records failed; see protocol.json\n")
  print(f"Everything is in {_OUT.value}/")


def _edited(results: Sequence[Results]) -> list[Results]:
  """Results worth an example: one query style, no unedited model."""
  asked = [r for r in results if r.query == _QUERIES.value[0]]
  return [r for r in asked if r.editor != "base"] or asked


if __name__ == "__main__":
  app.run(main)
