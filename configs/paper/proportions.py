"""The best shares of the training tasks: a sweep with a fitted surface.

Ten mixtures of three tasks; the surface has six numbers.
"""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Proportions of the training tasks",
    "InstructEdit on mixtures of CounterFact, Recent and ConvSent; a name is"
    " their shares in sixths. ZsRE is never trained on.",
  )
  config.seeds = (0,)
  shares = [(2, 2, 2), (4, 1, 1), (1, 4, 1), (1, 1, 4)]
  shares += [(3, 3, 0), (3, 0, 3), (0, 3, 3), (6, 0, 0), (0, 6, 0), (0, 0, 6)]
  for parts in shares:
    name = "shares_" + "".join(map(str, parts))
    weights = dict(zip(common.TRAINING, parts, strict=True))
    used = {task: share for task, share in weights.items() if share}
    common.add(config, name, common.recipe("instructedit", used))
  config.reference = "shares_222"
  config.proportions = True
  return config
