"""What an instruction does to the hypernetwork, form by form."""

import ml_collections

from configs.paper import common


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Forms of conditioning",
    "The instruction modulates the hypernetwork (`instructedit`), weighs the"
    " rows of an edit, or calls in experts; `mend` reads none.",
  )
  for method in (
    "mend",
    "instructedit",
    "instructedit_rows",
    "instructedit_experts",
  ):
    common.add(config, method, common.recipe(method))
  config.reference = "mend"
  return config
