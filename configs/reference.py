r"""The published recipe with the values its authors released.

One hypernetwork of rank 1920 on the MLP matrices of the last three blocks, one
record a micro-step, an Adam update every second one. It is kept to compare
with, mistakes included; `instructedit_jax.editors.reference` lists them. The
values of `recipe` are those of `ReferenceConfig`; the others say on what, and
for how long, the authors ran it. Its numbers are held to the published code's
by

  python -m tests.golden ../shared/golden

which takes about four minutes on two cores.

`get_config(arg)` takes one word:
  gpt2-xl (default)  123.1 million parameters, 30,000 micro-steps
  llama-2-7b         232.6 million parameters, 100,000 micro-steps
"""

import ml_collections

# The matrices of one block in the order the authors list them: it numbers the
# modes, and decides whose rows are counted when another is whitened.
_MODELS = {
  "gpt2-xl": {
    "model": "hf:openai-community/gpt2-xl",
    "blocks": (45, 46, 47),
    "order": ("down", "up"),
    "micro_steps": 30_000,
    "validate_every": 10,
    "tasks": ("counterfact", "wikirecent", "convsent"),
  },
  "llama-2-7b": {
    "model": "hf:meta-llama/Llama-2-7b-hf",
    "blocks": (29, 30, 31),
    "order": ("gate", "up", "down"),
    "micro_steps": 100_000,
    "validate_every": 5_000,
    "tasks": ("counterfact", "wikirecent"),
  },
}


def get_config(arg: str = "gpt2-xl") -> ml_collections.ConfigDict:
  """Returns the released values; see the module docstring for `arg`."""
  if arg not in _MODELS:
    raise ValueError(f"{arg!r} is none of {', '.join(_MODELS)}")
  chosen = _MODELS[arg]
  config = ml_collections.ConfigDict()
  config.model = chosen["model"]
  config.matrices = tuple(
    f"{block}.{name}" for block in chosen["blocks"] for name in chosen["order"]
  )
  config.tasks = chosen["tasks"]
  config.micro_steps = chosen["micro_steps"]
  config.validate_every = chosen["validate_every"]
  # The last ones of the very records it trains on.
  config.validation_records = 500
  config.max_tokens = 128
  config.seed = 42
  config.recipe = ml_collections.ConfigDict(
    {
      "hypernetwork": {
        "rank": 1920,
        "depth": 2,
        "shared": True,
        "sides": "combined",
        "normalize": True,
        "init": "identity",
        "v_scale": "unit",
        "statistics_per": "shape",
      },
      "edit_lr": 1e-4,
      "lr": 1e-6,
      "lr_lr": 1e-4,
      "cedit": 0.1,
      "cloc": 1.0,
      "accumulate": 2,
      "grad_clip": 100.0,
    }
  )
  return config
