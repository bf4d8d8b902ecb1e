"""What an instruction does, and Figure 3.

`descriptions` seen and as many held-out ones are tried; each is an evaluation
of its own. `conditions` may be shortened.
"""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.base(arg)
  config.limit = 50
  config.descriptions = 5
  config.conditions = (
    *("none", "seen", "held_out", "name", "nonsense", "other", "shuffled"),
    *("natural", "untold"),
  )
  for method in ("instructedit", "instructedit_text"):
    common.add(config, method, common.recipe(method))
  return config
