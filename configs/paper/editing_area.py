"""Figure 4a, b: directions of updates, by editor.

Beside the three methods, InstructEdit trained on Recent alone (tasks1) and on
Recent and CounterFact (tasks2), as in Figure 4b, and MEND on Recent alone.
"""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.base(arg)
  config.limit = 100
  config.told = (
    *("none", "held_out:0", "nonsense:0", "other:0", "shuffled:0"),
  )
  config.stages = ("gradient", "whitened", "pseudo", "answer", "update")
  config.pictured = "pseudo"
  config.perplexities = (10.0, 30.0, 50.0)
  for method in ("mend", "instructedit_text", "instructedit"):
    common.add(config, method, common.recipe(method))
  common.add(config, "mend_recent", common.recipe("mend", common.RECENT))
  common.add(config, "tasks1", common.recipe("instructedit", common.RECENT))
  common.add(
    config,
    "tasks2",
    common.recipe("instructedit", common.FACTS),
  )
  return config
