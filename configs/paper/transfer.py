"""Table 1: editors of one task on the others."""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Table 1: transfer of single-task editors",
    "MEND trained on one task and tested on all, beside MEND on the mixture of"
    " three and InstructEdit on the same; ZsRE is in the training of zsre_only"
    " alone.",
  )
  common.add(
    config, "counterfact_only", common.recipe("mend", {"counterfact": 1})
  )
  common.add(config, "zsre_only", common.recipe("mend", {"zsre": 1}))
  common.add(config, "mend", common.recipe("mend"))
  common.add(config, "instructedit", common.recipe("instructedit"))
  config.reference = "mend"
  return config
