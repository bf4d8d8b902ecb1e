"""Edit records as a TFDS dataset, one builder config a task.

Written as array_record files and read by random access through
`tfds.data_source`, which composes with Grain. TFDS must not be given another
file format: tfrecord files need TensorFlow.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from instructedit_jax.errors import UserError
from instructedit_jax.tasks.record import TASKS, Record
from instructedit_jax.tasks.splits import EMBEDDED, find_file, load_split

SPLITS = ("train", "test")


@dataclasses.dataclass
class EditTaskConfig(tfds.core.BuilderConfig):
  """Which task, and where its files are (as `load_split` takes it)."""

  task: str = ""
  data: str = EMBEDDED


class EditTasks(tfds.core.GeneratorBasedBuilder):
  """Edit requests with their probes, for knowledge editing."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
  BUILDER_CONFIGS: ClassVar = [
    EditTaskConfig(name=task, task=task) for task in TASKS
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    texts = tfds.features.Sequence(text)
    # Answers are ragged inside a list of probes: flat, with their counts.
    probes = {
      "kind": texts,
      "prompt": texts,
      "answers": texts,
      "answer_counts": tfds.features.Sequence(tfds.features.Scalar(np.int32)),
    }
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          **dict.fromkeys(_TEXTS, text),
          **dict.fromkeys(_LISTS, texts),
          "locality": probes,
          "portability": probes,
          "conversation": {
            "topic": text,
            "questions": texts,
            "positive": texts,
            "negative": texts,
            "wanted": text,
          },
        }
      ),
      supervised_keys=None,
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # The files are read where they are.
    config = self.builder_config
    return {
      split: self._generate_examples(split)
      for split in _present(config.task, config.data)
    }

  def _generate_examples(self, split: str) -> Iterator[tuple[str, Any]]:
    config = self.builder_config
    records, _ = load_split(config.data, config.task, split)
    # TFDS shuffles by key; the number restores the order of the file.
    for number, record in enumerate(records):
      yield f"{number:08d}", _example(record)


def tfds_records(
  task: str,
  split: str,
  data_dir: str | os.PathLike[str],
  data: str = EMBEDDED,
) -> list[Record]:
  """The records of a split by way of TFDS, prepared on first use.

  Args:
    task: one of `record.TASKS`.
    split: "train" or "test".
    data_dir: where TFDS keeps its prepared files.
    data: where the raw files are, as `load_split` takes it.

  Returns:
    The very records that `load_split(data, task, split)` returns, in the same
    order.

  Raises:
    UserError: an unknown task or split, or the raw files are refused.
  """
  if task not in TASKS or split not in SPLITS:
    raise UserError(
      f"No TFDS config for {task}/{split}: tasks are {', '.join(TASKS)},"
      f" splits {', '.join(SPLITS)}."
    )
  find_file(data, task, split)  # Complains before TFDS does, and clearly.
  config = EditTaskConfig(name=_config_name(task, data), task=task, data=data)
  builder = EditTasks(
    config=config, data_dir=str(data_dir), file_format="array_record"
  )
  builder.download_and_prepare()
  examples = list(builder.as_data_source(split=split))
  return sorted((_record(e) for e in examples), key=_position)


_TEXTS = ("id", "task", "subject", "prompt", "target", "split", "source")
_LISTS = ("rephrases", "ground_truth")
_ABSENT = {
  "topic": "",
  "questions": [],
  "positive": [],
  "negative": [],
  "wanted": "",
}


def _config_name(task: str, data: str) -> str:
  """Differs when the records differ, so that stale files are not reused."""
  digest = hashlib.sha256()
  for split in _present(task, data):
    records, _ = load_split(data, task, split)
    raws = [record.to_dict() for record in records]
    digest.update(json.dumps([split, raws]).encode())
  return f"{task}-{digest.hexdigest()[:12]}"


def _present(task: str, data: str) -> list[str]:
  """The splits there is a file for; a folder may hold only one of them."""
  found = []
  for split in SPLITS:
    with contextlib.suppress(UserError):
      find_file(data, task, split)
      found.append(split)
  return found


def _example(record: Record) -> dict[str, Any]:
  raw = record.to_dict()
  example = {name: raw[name] for name in _TEXTS}
  example |= {name: list(raw[name]) for name in _LISTS}
  for name in ("locality", "portability"):
    probes = raw[name]
    example[name] = {
      "kind": [probe["kind"] for probe in probes],
      "prompt": [probe["prompt"] for probe in probes],
      "answers": [answer for probe in probes for answer in probe["answers"]],
      "answer_counts": [len(probe["answers"]) for probe in probes],
    }
  conversation = raw["conversation"] or _ABSENT
  example["conversation"] = {
    k: list(v) if isinstance(v, tuple) else v for k, v in conversation.items()
  }
  return example


def _record(example: dict[str, Any]) -> Record:
  raw: dict[str, Any] = {name: _text(example[name]) for name in _TEXTS}
  raw |= {name: _texts(example[name]) for name in _LISTS}
  for name in ("locality", "portability"):
    raw[name] = _probes(example[name])
  conversation = example["conversation"]
  if _text(conversation["topic"]):
    raw["conversation"] = {
      "topic": _text(conversation["topic"]),
      "wanted": _text(conversation["wanted"]),
      **{
        name: _texts(conversation[name])
        for name in ("questions", "positive", "negative")
      },
    }
  return Record.from_dict(raw)


def _probes(columns: dict[str, Any]) -> list[dict[str, Any]]:
  answers = iter(_texts(columns["answers"]))
  rows = zip(
    _texts(columns["kind"]),
    _texts(columns["prompt"]),
    columns["answer_counts"],
    strict=True,
  )
  return [
    {
      "kind": kind,
      "prompt": prompt,
      "answers": [next(answers) for _ in range(int(count))],
    }
    for kind, prompt, count in rows
  ]


def _text(value: Any) -> str:
  return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _texts(values: Any) -> list[str]:
  return [_text(value) for value in values]


def _position(record: Record) -> int:
  return int(record.id.rsplit("/", 1)[1])
