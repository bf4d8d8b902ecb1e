"""Other hypernetworks: rank, depth, activation, form, rows and rounds."""

import ml_collections

from configs.paper import common

_ONE_ROUND = {"editor.rounds": 1, "editor.insist": 0}
_PUBLISHED = _ONE_ROUND | {"editor.ridge": 0.0}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the experiment; `arg` is a model, see `common`."""
  config = common.sweep(
    arg,
    "Shapes of the hypernetwork",
    "InstructEdit with one thing changed at a time; `instructedit` is the"
    " default.",
  )
  config.seeds = (0,)
  common.add(config, "instructedit", common.recipe("instructedit"))
  changes = {
    "rank_16": {"editor.network.rank": 16},
    "rank_64": {"editor.network.rank": 64},
    "rank_1024": {"editor.network.rank": 1024},
    "depth_1": {"editor.network.depth": 1},
    "depth_4": {"editor.network.depth": 4},
    "gelu": {"editor.network.activation": "gelu"},
    "tanh": {"editor.network.activation": "tanh"},
    "linear": {"editor.network.activation": "none"},
    "separate": {"editor.network.sides": "separate"},
    "only_x": {"editor.network.sides": "x"},
    "only_delta": {"editor.network.sides": "delta"},
    "one_each": {"editor.network.shared": False},
    "clamped": {"editor.network.last_clamp": True},
    "all_rows": _PUBLISHED | {"editor.rows": "all"},
    "answer_rows": _PUBLISHED,
    "one_round": _ONE_ROUND,
    "three_rounds": {"editor.rounds": 3},
    "four_rounds": {"editor.rounds": 4},
    "no_ridge": {"editor.ridge": 0.0},
  }
  for name, values in changes.items():
    recipe = common.recipe("instructedit")
    recipe.update_from_flattened_dict(values)
    common.add(config, name, recipe)
  # The instruction as text, with its rows in the update and without.
  for rows in ("all", "answer"):
    recipe = common.recipe("instructedit_text")
    recipe.update_from_flattened_dict(_PUBLISHED | {"editor.rows": rows})
    common.add(config, f"text_{rows}_rows", recipe)
  config.reference = "instructedit"
  return config
