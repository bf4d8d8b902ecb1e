"""ZsRE: natural questions, each with an unrelated one that must not change.

Layout: {subject, src, alt, rephrase, answers, loc, loc_ans, [portability]},
the last one {"New Question", "New Answer"}.
"""

from collections.abc import Mapping

from instructedit_jax.tasks import fields
from instructedit_jax.tasks.knowedit import probe_of, read_edit
from instructedit_jax.tasks.record import Probe, Record
from instructedit_jax.tasks.validation import ValidationReport

FIELDS = frozenset({"subject", "src", "alt"})


def read_zsre(
  raw: fields.Raw, place: fields.Place, report: ValidationReport
) -> Record | None:
  """A record in ZsRE's layout; None if it was dropped and reported.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  edit = read_edit(raw, place, report, prompt="src", target="alt")
  if edit is None:
    return None
  locality = probe_of(
    "nq",
    fields.text(raw, "loc", place),
    fields.answers(raw.get("loc_ans"), "loc_ans", place),
    place,
    report,
  )
  portability = raw.get("portability") or {}
  if not isinstance(portability, Mapping):
    raise place.error("portability", "must be a dict.")
  hop: tuple[Probe, ...] = ()
  if portability:
    hop = probe_of(
      "Reasoning",
      fields.text(portability, "New Question", place),
      fields.answers(portability.get("New Answer"), "New Answer", place),
      place,
      report,
    )
  return Record(
    **edit,
    rephrases=fields.answers(raw.get("rephrase"), "rephrase", place),
    locality=locality,
    portability=hop,
    ground_truth=fields.answers(raw.get("answers"), "answers", place),
  )
