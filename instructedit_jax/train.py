"""Trains an editor: --config=configs/multi.py[:ARG] --workdir=DIR.

The same command continues a run that was cut off, on as many devices and hosts
as there are then. `--config.KEY=VALUE` overrides any value of the
configuration. On several hosts, start it on each: `--distributed` joins them.
"""

from collections.abc import Sequence

from absl import flags, logging

from instructedit_jax import app

_CONFIG = app.config_flag()
_DISTRIBUTED = app.distributed_flag()
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run: metrics, checkpoints, the editor."
)


def main(argv: Sequence[str]) -> None:
  """Entry point."""
  del argv
  import jax

  from instructedit_jax.errors import UserError
  from instructedit_jax.training import config as config_lib
  from instructedit_jax.training import loop, reference_loop

  if not _WORKDIR.value:
    raise UserError("--workdir=DIR is missing: where should the run go?")
  first = jax.process_index() == 0
  logging.set_verbosity(logging.INFO if first else logging.WARNING)
  if _CONFIG.value.get("trainer") == "reference":
    if jax.process_count() > 1:
      raise UserError(
        "the published recipe takes one record a step: it runs in one process"
      )
    reference_loop.train(
      reference_loop.from_config(_CONFIG.value), _WORKDIR.value
    )
  else:
    loop.train(config_lib.from_config(_CONFIG.value), _WORKDIR.value)


if __name__ == "__main__":
  app.run(main)
