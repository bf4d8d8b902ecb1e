"""The fact layouts: KnowEdit's (CounterFact, Recent), and flat CounterFact.

KnowEdit: {subject, prompt, target_new, [ground_truth], [rephrase],
[locality], [portability]}, the last two {kind: [{prompt, ground_truth}]}.
Flat: {subject, prompt, target_new, ground_truth, rephrase_prompt,
locality_prompt, locality_ground_truth}, one probe each.
"""

from typing import Any

from instructedit_jax.tasks import fields
from instructedit_jax.tasks.record import Probe, Record
from instructedit_jax.tasks.validation import ValidationReport

KNOWEDIT_FIELDS = frozenset({"subject", "prompt", "target_new"})
FLAT_FIELDS = KNOWEDIT_FIELDS | {"locality_prompt", "locality_ground_truth"}


def read_knowedit(
  raw: fields.Raw, place: fields.Place, report: ValidationReport
) -> Record | None:
  """A record in KnowEdit's layout; None if it was dropped and reported.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  edit = read_edit(raw, place, report, prompt="prompt", target="target_new")
  if edit is None:
    return None
  rephrases = fields.answers(
    [raw.get("rephrase"), raw.get("rephrase_prompt")], "rephrase", place
  )
  return Record(
    **edit,
    rephrases=rephrases,
    locality=fields.probes(raw, "locality", place, report),
    portability=fields.probes(raw, "portability", place, report),
    ground_truth=fields.answers(raw.get("ground_truth"), "ground_truth", place),
  )


def read_flat(
  raw: fields.Raw, place: fields.Place, report: ValidationReport
) -> Record | None:
  """A record in the flat layout; None if it was dropped and reported.

  Its locality prompt names another subject of the same relation, so the probe
  is of the kind "Neighborhood".

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  edit = read_edit(raw, place, report, prompt="prompt", target="target_new")
  if edit is None:
    return None
  item = {
    "prompt": fields.text(raw, "locality_prompt", place),
    "ground_truth": fields.text(raw, "locality_ground_truth", place),
  }
  locality = {"locality": {"Neighborhood": [item]}}
  return Record(
    **edit,
    rephrases=fields.answers(
      raw.get("rephrase_prompt"), "rephrase_prompt", place
    ),
    locality=fields.probes(locality, "locality", place, report),
    ground_truth=fields.answers(raw.get("ground_truth"), "ground_truth", place),
  )


def read_edit(
  raw: fields.Raw,
  place: fields.Place,
  report: ValidationReport,
  *,
  prompt: str,
  target: str,
) -> dict[str, Any] | None:
  """The fields every fact has; None if one of them is empty.

  `prompt` and `target` are the names these two fields have in the file.
  """
  edit: dict[str, Any] = {
    "subject": fields.text(raw, "subject", place),
    "prompt": fields.text(raw, prompt, place),
    "target": fields.text(raw, target, place),
  }
  for name, value in edit.items():
    if not value:
      report.drop_record(f"empty {name}", place.id)
      return None
  return edit | {
    "id": place.id,
    "task": place.task,
    "split": place.split,
    "source": place.file,
  }


def probe_of(
  kind: str,
  prompt: str,
  names: tuple[str, ...],
  place: fields.Place,
  report: ValidationReport,
) -> tuple[Probe, ...]:
  """One probe, or none, reported, if it lacks a prompt or an answer."""
  if not prompt or not names:
    report.drop_probe(
      "empty prompt" if not prompt else "no answer", f"{place.id} {kind}"
    )
    return ()
  return (Probe(kind, prompt, names),)
