"""A domain as the hold-out: opinions for editors of facts, and the reverse.

ZsRE, the paper's hold-out, holds facts as the training tasks do, asked in other
words. ConvSent is another matter: opinions in whole sentences, about topics
instead of relations, with a sentiment to convey.
"""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Opinions and facts as each other's hold-out",
    "tasks2 and mend_facts are trained on facts alone (CounterFact and Recent),"
    " opinions on ConvSent alone, the others on both; UltraEdit is not trained"
    " at all. As many episodes each.",
  )
  config.limit = 200
  # Trained for `task_count` and Table 3, too.
  common.add(config, "tasks2", common.recipe("instructedit", common.FACTS))
  common.add(config, "mend_facts", common.recipe("mend", common.FACTS))
  common.add(config, "opinions", common.recipe("instructedit", {"convsent": 1}))
  common.add(config, "instructedit", common.recipe("instructedit"))
  common.add(config, "mend", common.recipe("mend"))
  common.add(config, "ultraedit", "ultraedit")
  config.reference = "instructedit"
  return config
