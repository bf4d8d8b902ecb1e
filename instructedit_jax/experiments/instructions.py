"""What an instruction does, and Figure 3: seen against held-out descriptions.

python -m instructedit_jax.experiments.instructions \
  --config=configs/paper/instructions.py --data=DIR --out=results/instructions \
  --editors=instructedit=DIR0,instructedit_text=DIR1

Every editor gets, with the same records, no instruction; descriptions of the
task that it was trained with and such that it was not; the task's name alone;
unrelated words of about the same length; another task's instruction; that of a
random task; and sentences in a user's own words (`natural`). Questions are
bare, or have the same instruction in front. A further cell asks with the
instruction what was edited without.
"""

from collections.abc import Mapping, Sequence

from instructedit_jax import figures
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation import natural
from instructedit_jax.experiments.compare import Difference, difference
from instructedit_jax.experiments.entrants import Entrant, entrants
from instructedit_jax.experiments.joining import of_condition
from instructedit_jax.experiments.measuring import Measuring, Way
from instructedit_jax.experiments.setup import Setup, start
from instructedit_jax.experiments.writing import bar_row, cell, table, write
from instructedit_jax.reports.aggregate import ALL_TASKS, Number, numbers
from instructedit_jax.reports.runs import Run

NAME = "instructions"
METRICS = (
  "reliability_em",
  "generalization_em",
  "locality_token",
  "portability_token",
)
CONVSENT_METRICS = ("reliability_token", "edit_success")
SEEN, HELD_OUT, NONE, UNTOLD = "seen", "held_out", "none", "untold"
NATURAL = natural.NATURAL
BARE, INSTRUCTED = "bare", "instructed"
# What the editor is told in each condition, for tables.
MEANING = {
  NONE: "nothing",
  SEEN: "a description it was trained with",
  HELD_OUT: "a description it never read",
  "name": "the task's name alone",
  "nonsense": "unrelated words of about the same length",
  "other": "another task's instruction",
  "shuffled": "that of a task drawn for each record",
  NATURAL: "a sentence in a user's own words, without the task's name",
  UNTOLD: "nothing, but questions have a held-out description",
}
Runs = Mapping[str, Sequence[Run]]


def ways(descriptions: int) -> dict[str, list[Way]]:
  """condition -> the evaluations it is the mean of.

  Args:
    descriptions: how many seen and how many held-out ones.
  """
  both = (BARE, INSTRUCTED)
  found = {NONE: [Way(NONE, (BARE,))]}
  for split in (SEEN, HELD_OUT):
    found[split] = [Way(f"{split}:{k}", both) for k in range(descriptions)]
  for choice in ("name", "nonsense:0", "other:0", "shuffled:0"):
    found[choice.partition(":")[0]] = [Way(choice, both)]
  found[NATURAL] = [Way(f"{NATURAL}:{k}", both) for k in range(natural.COUNT)]
  found[UNTOLD] = [
    Way(way.instruction, (INSTRUCTED,), told=False) for way in found[HELD_OUT]
  ]
  return found


def run(setup: Setup) -> None:
  """Evaluates every editor under every condition and writes the tables."""
  plan = planned(setup)
  found, failed = entrants(setup)
  measuring = Measuring(setup)
  # Questions' states are shared by editors, so these are the inner loop.
  runs: dict[str, list[Run]] = {}
  for condition, each in plan.items():
    try:
      runs[condition] = [r for way in each for r in measuring(found, way)]
    except UserError:
      continue  # `measuring` says why
  if not runs:
    raise UserError(next(iter(measuring.failed.values())))
  joined = {c: of_condition(mine) for c, mine in runs.items()}
  values = {condition: numbers(mine) for condition, mine in joined.items()}
  sections = {"What the editor is told": _meanings(plan)}
  differences: list[Difference] = []
  for entrant in found:
    sections |= _tables(entrant, values)
    differences += _differences(entrant, joined)
  sections["Differences"] = _difference_table(differences)
  write(
    setup,
    f"What an instruction does, {setup.config.model}",
    sections,
    {"numbers": values, "differences": differences},
    runs,
    failed | measuring.failed,
  )
  for entrant in found:
    rows = _bars(entrant, values)
    if rows:  # else it is listed as failed
      figures.bars(
        rows,
        setup.out / f"figure-{entrant.name}.png",
        f"{entrant.name}: what it is told (colour) and asked (group), percent",
      )


def planned(setup: Setup) -> dict[str, list[Way]]:
  """The conditions that the configuration names, in the order of `ways`.

  Raises:
    UserError: it names an unknown one, or none.
  """
  known, wanted = ways(setup.config.descriptions), setup.config.conditions
  unknown = [condition for condition in wanted if condition not in known]
  if unknown or not wanted:
    raise UserError(
      f"config.conditions: {unknown[0] if unknown else 'nothing'!r} is none of"
      f" {', '.join(known)}"
    )
  return {c: each for c, each in known.items() if c in wanted}


def _meanings(plan: Mapping[str, Sequence[Way]]) -> str:
  return table(
    "condition",
    ["the editor gets", "choices"],
    [
      (name, [MEANING[name], ", ".join(way.instruction for way in each)])
      for name, each in plan.items()
    ],
  )


def _tables(
  entrant: Entrant, values: Mapping[str, Sequence[Number]]
) -> dict[str, str]:
  """A table for each task: conditions and questions as lines."""
  held = {
    (condition, n.task, n.query, n.metric): n
    for condition, each in values.items()
    for n in each
    if n.editor == entrant.name
  }
  found = {}
  for task in dict.fromkeys(task for _, task, _, _ in held):
    if task == ALL_TASKS:
      continue
    metrics = [
      metric
      for metric in (*METRICS, *CONVSENT_METRICS)
      if any((task, metric) == (t, m) for _, t, _, m in held)
    ]
    lines = [
      (
        f"{condition}, {query}",
        [cell(held.get((condition, task, query, m))) for m in metrics],
      )
      for query in (BARE, INSTRUCTED)
      for condition in values
      if any((condition, task, query, m) in held for m in metrics)
    ]
    text = table("told, asked", metrics, lines)
    found[f"{entrant.name} on {task}"] = text
  return found


def _differences(entrant: Entrant, runs: Runs) -> list[Difference]:
  """Every condition against none, and held-out against seen descriptions."""
  mine = {
    condition: [run for run in each if run.editor == entrant.name]
    for condition, each in runs.items()
  }
  pairs = [(c, NONE, BARE) for c in mine if c not in (NONE, UNTOLD)]
  pairs += [(HELD_OUT, SEEN, query) for query in (BARE, INSTRUCTED)]
  pairs += [
    (c, HELD_OUT, BARE)
    for c in ("name", "nonsense", "other", "shuffled", NATURAL)
  ]
  pairs += [(HELD_OUT, UNTOLD, INSTRUCTED)]
  found = []
  for first, second, query in pairs:
    if not mine.get(first) or not mine.get(second):
      continue
    tasks = dict.fromkeys(task for r in mine[first] for task, _ in r.stamps)
    for task in tasks:
      for metric in METRICS:
        each = difference(mine[first], mine[second], (task, query), metric)
        if each is not None:
          names = (f"{entrant.name}, {told}" for told in (first, second))
          editor, other = names
          found.append(
            Difference(
              *(task, query, metric, editor, other),
              *(each.value, each.low, each.high, each.records),
            )
          )
  return found


def _difference_table(differences: Sequence[Difference]) -> str:
  held: dict[str, dict[str, str]] = {}
  for each in differences:
    what = f"{each.editor} - {each.other.rpartition(', ')[2]}"
    head = f"{what}, {each.query}, {each.task}"
    held.setdefault(head, {})[each.metric] = str(each)
  note = (
    "Same records; percentage points with 95 % intervals over records and"
    " seeds, each record's mean over a condition's descriptions. Of an editor"
    " with one seed, over records and descriptions.\n\n"
  )
  lines = [
    (head, [cells.get(metric, "") for metric in METRICS])
    for head, cells in held.items()
  ]
  return note + table("difference", METRICS, lines)


def _bars(
  entrant: Entrant, values: Mapping[str, Sequence[Number]]
) -> list[dict]:
  return [
    bar_row(n, editor=condition)
    for condition, each in values.items()
    for n in each
    if n.editor == entrant.name and n.metric in METRICS
  ]


if __name__ == "__main__":
  start(NAME, run)
