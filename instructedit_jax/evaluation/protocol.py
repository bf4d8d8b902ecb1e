"""What was measured and how, so that a number can be traced and repeated."""

import dataclasses
import hashlib
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import instructedit_jax
from instructedit_jax.editors.trained import TrainedEditor
from instructedit_jax.errors import UserError
from instructedit_jax.evaluation.options import Options
from instructedit_jax.models.language_model import LanguageModel
from instructedit_jax.tasks.record import Record


def model_stamp(model: LanguageModel) -> dict[str, Any]:
  """Which base model."""
  dtype = jax.tree.leaves(model.params["embedding"])[0].dtype
  return {
    "name": model.name,
    "fingerprint": model.fingerprint,
    "suffix": model.config.suffix,
    "dtype": str(dtype),
  }


def editor_stamp(editor: TrainedEditor | None) -> dict[str, Any] | None:
  """Which editor, with a digest of its configuration and all its numbers."""
  if editor is None:
    return None
  digest = hashlib.sha256(repr(editor.config).encode())
  arrays = (editor.params, editor.statistics)
  for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
    digest.update(jax.tree_util.keystr(path).encode())
    digest.update(np.asarray(leaf).tobytes())
  return {
    "method": editor.name,
    "config": dataclasses.asdict(editor.config),
    "sha256": digest.hexdigest(),
  }


def data_stamp(
  path: str | os.PathLike[str], split: str, records: Sequence[Record]
) -> dict[str, Any]:
  """Which records of which file: its first ones."""
  source = pathlib.Path(path)
  try:
    content = source.read_bytes()
  except OSError as error:
    raise UserError(f"{source}: cannot be read ({error.strerror})") from None
  return {
    "file": source.name,
    "split": split,
    "sha256": hashlib.sha256(content).hexdigest(),
    "records": len(records),
  }


def stamp(
  options: Options, query: str, parts: Mapping[str, Any]
) -> dict[str, Any]:
  """The protocol of one task, editor and query style, for JSON.

  Args:
    options: of the evaluation.
    query: how questions are asked.
    parts: the stamps of model, editor and data.
  """
  return {
    "versions": {
      "instructedit_jax": instructedit_jax.__version__,
      "jax": jax.__version__,
      "numpy": np.__version__,
      "python": platform.python_version(),
    },
    "device": jax.devices()[0].device_kind,
    "query": query,
    **parts,
    "options": options.protocol(),
  }
