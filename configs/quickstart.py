"""The main job in a few minutes on two CPU cores; nothing to download.

Meta-trains InstructEdit for SmolLM2-135M on the embedded records of three
tasks; the fourth, zsre, is never trained on. It is `instructedit`, whose steps
take two thirds of the time of the default's. `launch/quickstart.sh` runs it and
the evaluation after it.

  python -m instructedit_jax.train --config=configs/quickstart.py \
    --workdir=runs/quickstart
"""

import ml_collections

from configs import multi


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns `multi`'s configuration with less of everything."""
  config = multi.get_config(f"instructedit,{arg}")
  config.data = "embedded"
  config.steps = 300
  config.validate_every = 60
  config.checkpoint_every = 60
  return config
