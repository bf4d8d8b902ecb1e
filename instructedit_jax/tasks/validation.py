"""What was read, what was dropped and why."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from instructedit_jax.tasks.record import Record

_EXAMPLES = 3


@dataclasses.dataclass
class ValidationReport:
  """Counts and examples of what a loader kept, dropped and noticed.

  Attributes:
    task, split, source: what was read.
    read: records in the file.
    kept: records that came out.
    dropped_records, dropped_probes: reason -> count.
    notes: remark -> count, about records that were kept.
    examples: reason or remark -> the first few places it was met.
    rephrases, locality, portability: probes kept, the last two by kind.
  """

  task: str
  split: str
  source: str
  read: int = 0
  kept: int = 0
  dropped_records: Counter[str] = dataclasses.field(default_factory=Counter)
  dropped_probes: Counter[str] = dataclasses.field(default_factory=Counter)
  notes: Counter[str] = dataclasses.field(default_factory=Counter)
  examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  rephrases: int = 0
  locality: Counter[str] = dataclasses.field(default_factory=Counter)
  portability: Counter[str] = dataclasses.field(default_factory=Counter)

  def drop_record(self, reason: str, example: str) -> None:
    """Counts one record that is left out."""
    self._count(self.dropped_records, reason, example)

  def drop_probe(self, reason: str, example: str) -> None:
    """Counts one locality or portability probe that is left out."""
    self._count(self.dropped_probes, reason, example)

  def note(self, remark: str, example: str) -> None:
    """Counts something worth knowing about a record that is kept."""
    self._count(self.notes, remark, example)

  def _count(self, counter: Counter[str], reason: str, example: str) -> None:
    counter[reason] += 1
    seen = self.examples.setdefault(reason, [])
    if len(seen) < _EXAMPLES:
      seen.append(example)

  def tally(self, records: Sequence[Record]) -> None:
    """Counts what came out; called once, when loading is over."""
    self.kept = len(records)
    prompts: set[str] = set()
    for record in records:
      self.rephrases += len(record.rephrases)
      self.locality.update(probe.kind for probe in record.locality)
      self.portability.update(probe.kind for probe in record.portability)
      if not record.locality:
        self.note("no locality probe", record.id)
      if record.subject not in record.prompt:
        self.note("the prompt does not contain the subject", record.id)
      if record.prompt in prompts:
        self.note("same prompt as an earlier record", record.id)
      prompts.add(record.prompt)

  @property
  def clean(self) -> bool:
    """True if nothing at all was dropped."""
    return not self.dropped_records and not self.dropped_probes

  def to_dict(self) -> dict[str, Any]:
    """Plain dicts, lists, texts and numbers, for JSON."""
    raw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {k: dict(v) if isinstance(v, dict) else v for k, v in raw.items()}

  def __str__(self) -> str:
    lines = [
      f"{self.task}/{self.split}: {self.kept} records kept of {self.read}"
      f" read from {self.source}"
    ]
    if self.rephrases:
      lines.append(f"  rephrases: {self.rephrases}")
    for name in ("locality", "portability"):
      kinds: Counter[str] = getattr(self, name)
      if kinds:
        counts = ", ".join(f"{k} {n}" for k, n in sorted(kinds.items()))
        lines.append(f"  {name}: {counts}")
    lines += self._reasons("dropped record", self.dropped_records)
    lines += self._reasons("dropped probe", self.dropped_probes)
    lines += self._reasons("note, record kept", self.notes)
    return "\n".join(lines)

  def _reasons(self, what: str, counter: Counter[str]) -> Iterable[str]:
    for reason, count in counter.most_common():
      yield f"  {what}: {count} x {reason} (e.g. {self.examples[reason][0]})"
