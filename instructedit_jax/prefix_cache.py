"""Fills a store of prefix states: --config=FILE.py --config.prefix_cache=disk:…

Every sequence that the run of this configuration will read passes through the
frozen prefix once and is kept. Runs with the same data, seed and no more steps
then need no prefix at all. The same command goes on where it was cut off.
"""

from collections.abc import Sequence

from absl import logging

from instructedit_jax import app

_CONFIG = app.config_flag()


def main(argv: Sequence[str]) -> None:
  """Entry point."""
  del argv
  from instructedit_jax.errors import UserError
  from instructedit_jax.training import config as config_lib
  from instructedit_jax.training import prefix_fill

  if _CONFIG.value.get("trainer") == "reference":
    raise UserError(
      "the published recipe that configs/reference.py runs reads no prefix"
      " states; fill a store for configs/multi.py"
    )
  logging.set_verbosity(logging.INFO)
  prefix_fill.fill(config_lib.from_config(_CONFIG.value))


if __name__ == "__main__":
  app.run(main)
