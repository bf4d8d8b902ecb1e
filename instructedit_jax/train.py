"""Trains an editor: --config=configs/multi.py[:ARG] --workdir=DIR.

The same command continues a run that was cut off. `--config.KEY=VALUE`
overrides any value of the configuration.
"""

from collections.abc import Sequence

from absl import flags, logging

from instructedit_jax import app

_CONFIG = app.config_flag()
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run: metrics, checkpoints, the editor."
)


def main(argv: Sequence[str]) -> None:
  """Entry point."""
  del argv
  from instructedit_jax.errors import UserError
  from instructedit_jax.training import config as config_lib
  from instructedit_jax.training import loop, reference_loop

  if not _WORKDIR.value:
    raise UserError("--workdir=DIR is missing: where should the run go?")
  logging.set_verbosity(logging.INFO)
  if _CONFIG.value.get("trainer") == "reference":
    reference_loop.train(
      reference_loop.from_config(_CONFIG.value), _WORKDIR.value
    )
  else:
    loop.train(config_lib.from_config(_CONFIG.value), _WORKDIR.value)


if __name__ == "__main__":
  app.run(main)
