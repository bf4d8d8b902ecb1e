"""Figure 4c: one, two and three training tasks."""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Figure 4c: number of training tasks",
    "InstructEdit trained with the same number of episodes on Recent, then on"
    " CounterFact too, then on ConvSent too; ZsRE is never trained on.",
  )
  common.add(config, "tasks1", common.recipe("instructedit", common.RECENT))
  common.add(config, "tasks2", common.recipe("instructedit", common.FACTS))
  common.add(config, "instructedit", common.recipe("instructedit"))
  config.axis.tasks1 = 1.0
  config.axis.tasks2 = 2.0
  config.axis.instructedit = 3.0
  config.axis_label = "training tasks"
  config.reference = "tasks1"
  return config
