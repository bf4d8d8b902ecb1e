"""Appendix C: the first records of each task, with free answers."""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.base(arg)
  config.limit = 3
  config.seeds = (0,)
  config.queries = ("bare", "instructed")
  config.free = True
  common.add(config, "base", "base")
  for method in ("mend", "instructedit_text", "instructedit"):
    common.add(config, method, common.recipe(method))
  return config
