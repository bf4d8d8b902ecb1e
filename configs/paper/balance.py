"""Figure 4d: a balanced against an unbalanced mixture of two tasks.

The unbalanced shares are the numbers of records of the paper's Table 5.
"""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Figure 4d: balanced and unbalanced mixture",
    "InstructEdit on Recent and ConvSent: as many episodes of each, or in the"
    " proportion 570 to 14,390 of the published files. CounterFact and ZsRE"
    " are never trained on.",
  )
  common.add(
    config,
    "balanced",
    common.recipe("instructedit", {"wikirecent": 1, "convsent": 1}),
  )
  common.add(
    config,
    "unbalanced",
    common.recipe("instructedit", {"wikirecent": 570, "convsent": 14390}),
  )
  config.reference = "unbalanced"
  config.norms = True
  return config
