"""A frozen sentence encoder's view of texts, to compare a model's own with.

Any BERT-like encoder in a local folder, as sentence-transformers publishes
them. PyTorch runs it: it is for a comparison, no editor needs it.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from instructedit_jax.errors import UserError


def states(folder: str, texts: Sequence[str]) -> list[np.ndarray]:
  """Hidden states float32 [T, H] of every text's tokens, after the last block.

  Args:
    folder: config.json, model.safetensors and the tokenizer's files.
    texts: each is read by itself, up to the encoder's longest.

  Raises:
    UserError: PyTorch is missing, or there is no encoder in the folder.
  """
  try:
    import torch
  except ImportError as error:
    raise UserError(
      "config.encoder: PyTorch reads it and is not installed; pip install -r"
      " requirements-test.txt, or leave config.encoder empty"
    ) from error
  # Imported late: without an encoder none of this is needed.
  from transformers import AutoModel, AutoTokenizer

  if not (pathlib.Path(folder) / "config.json").is_file():
    raise UserError(
      f"config.encoder: {folder} has no config.json; give the folder of a"
      " sentence encoder as transformers saves it"
    )
  try:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder).eval()
  except (OSError, ValueError) as error:
    raise UserError(
      f"config.encoder: {folder} cannot be read as an encoder ({error})"
    ) from error
  longest = encoder.config.max_position_embeddings
  found = []
  with torch.no_grad():
    for text in texts:
      tokens = tokenizer(
        text, return_tensors="pt", truncation=True, max_length=longest
      )
      found.append(encoder(**tokens).last_hidden_state[0].float().numpy())
  return found
