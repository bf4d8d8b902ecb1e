"""The public data of the paper, from the Hugging Face hub."""

import pathlib

from instructedit_jax.errors import UserError

REPOSITORY = "zjunlp/KnowEdit"


def snapshot() -> pathlib.Path:
  """Downloads the data once, into the hub's own cache; returns its folder.

  Works offline once the data is cached, with HF_HUB_OFFLINE=1.

  Raises:
    UserError: huggingface_hub is not installed, or the download fails.
  """
  try:
    import huggingface_hub
  except ImportError:
    raise UserError(
      "--data=hub needs huggingface_hub: `pip install huggingface_hub`, or"
      " give a folder with --data."
    ) from None
  try:
    folder = huggingface_hub.snapshot_download(
      REPOSITORY, repo_type="dataset", allow_patterns=["*.json"]
    )
  except Exception as error:  # The hub raises dozens of unrelated classes.
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    raise UserError(
      f"{REPOSITORY} cannot be downloaded from the hub ({reason}). Check the"
      " network, or download it elsewhere and give its folder with --data."
    ) from error
  return pathlib.Path(folder)
