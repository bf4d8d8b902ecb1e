"""Shapes of well-known models, and tiny ones for tests and demos."""

from instructedit_jax.errors import UserError
from instructedit_jax.models import families
from instructedit_jax.models.config import DecoderConfig


def preset(name: str) -> DecoderConfig:
  """A known shape: "gpt2-xl", "llama-2-7b", "smollm2-135m", "tiny-gpt2"...

  Raises:
    UserError: the name is unknown.
  """
  if name not in _PRESETS:
    raise UserError(
      f"no preset {name!r}; there are {', '.join(sorted(_PRESETS))}"
    )
  return _PRESETS[name]


def names() -> list[str]:
  """Every known shape's name."""
  return sorted(_PRESETS)


def name_of(spec: str) -> str | None:
  """The preset with the shape of a model that `load_model` takes, or None.

  Args:
    spec: "smollm2-135m", "hf:meta-llama/Llama-2-7b-hf"...
  """
  name = spec.removeprefix("hf:").rpartition("/")[2].lower()
  for ending in ("-hf", "-instruct", "-chat"):
    name = name.removesuffix(ending)
  return name if name in _PRESETS else None


def _gpt2_shape(
  vocab: int, width: int, blocks: int, heads: int
) -> DecoderConfig:
  fields = {
    "model_type": "gpt2",
    "vocab_size": vocab,
    "n_embd": width,
    "n_layer": blocks,
    "n_head": heads,
  }
  return families.from_transformers(fields)


def _llama2_shape(
  width: int, ffn: int, blocks: int, heads: int, kv_heads: int
) -> DecoderConfig:
  return DecoderConfig(
    vocab=32000,
    width=width,
    ffn=ffn,
    blocks=blocks,
    heads=heads,
    kv_heads=kv_heads,
    head_dim=width // heads,
    context=4096,
    tied=False,
  )


_PRESETS = {
  "gpt2": _gpt2_shape(50257, 768, 12, 12),
  "gpt2-xl": _gpt2_shape(50257, 1600, 48, 25),
  "llama-2-7b": _llama2_shape(4096, 11008, 32, 32, 32),
  "llama-2-13b": _llama2_shape(5120, 13824, 40, 40, 40),
  "llama-2-70b": _llama2_shape(8192, 28672, 80, 64, 8),
  "smollm2-135m": DecoderConfig(
    vocab=49152,
    width=576,
    ffn=1536,
    blocks=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    context=8192,
    rope_theta=100000.0,
  ),
  # The tiny ones fit the built-in byte tokenizer.
  "tiny-gpt2": _gpt2_shape(272, 32, 4, 4),
  "tiny-llama": DecoderConfig(
    vocab=272,
    width=32,
    ffn=64,
    blocks=4,
    heads=4,
    kv_heads=2,
    head_dim=8,
    context=1024,
    tied=False,
  ),
}
