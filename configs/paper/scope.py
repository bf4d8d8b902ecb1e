"""Is an instruction that says how far the edit reaches obeyed?

All are trained on the same episodes, half of which state a scope.
"""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.base(arg)
  config.tasks = ("counterfact", "convsent", "zsre")  # Recent has no rephrases
  config.sentences = 4  # of either scope
  for method in ("mend", "instructedit_text", "instructedit"):
    recipe = common.recipe(method)
    recipe.episode.scoped = 0.5
    # Trained on other episodes than the editors of these names elsewhere.
    common.add(config, f"{method}_scoped", recipe)
  config.reference = "mend_scoped"
  return config
