"""What an instruction's embedding shows of it; no editor is needed."""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.base(arg)
  config.encoder = ""  # folder of a sentence encoder to compare with
  return config
