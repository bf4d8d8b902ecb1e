"""The supported families: transformers' config and tensor names against ours.

Supported model types are gpt2, llama, mistral, qwen2 and qwen3, in the config
layout of transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from instructedit_jax.errors import UserError
from instructedit_jax.models.config import DecoderConfig, RopeScaling

# What a config.json may leave out, by model type.
_DEFAULTS: dict[str, dict[str, Any]] = {
  "llama": {"max_position_embeddings": 2048},
  "mistral": {
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
  },
  "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32},
  "qwen3": {
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "head_dim": 128,
  },
}
SUPPORTED = ("gpt2", *_DEFAULTS)

_ACTIVATIONS = {
  "gelu_new": "gelu_new",
  "gelu_pytorch_tanh": "gelu_new",
  "gelu_fast": "gelu_new",
  "gelu": "gelu",
  "relu": "relu",
  "silu": "silu",
  "swish": "silu",
}


def with_suffix(config: DecoderConfig, suffix: int) -> DecoderConfig:
  """The same decoder with its last `suffix` blocks editable.

  Raises:
    UserError: `suffix` is not between 1 and the number of blocks.
  """
  if not 1 <= suffix <= config.blocks:
    raise UserError(
      f"suffix {suffix}: this model has {config.blocks} blocks, so choose"
      f" between 1 and {config.blocks} editable ones"
    )
  return dataclasses.replace(config, suffix=suffix)


def from_transformers(
  config: Any, *, name: str = "config.json"
) -> DecoderConfig:
  """Translates a transformers config.

  Args:
    config: what a config.json holds, as a mapping, or a config object.
    name: what an error message calls it.

  Raises:
    UserError: it asks for something the decoder lacks; every such thing is
      named at once.
  """
  held = config if isinstance(config, Mapping) else config.to_dict()
  kind = held.get("model_type")
  if kind not in SUPPORTED:
    raise UserError(
      f"{name}: model_type {kind!r} is not supported; supported are"
      f" {', '.join(SUPPORTED)}"
    )
  reader = _Reader({**_DEFAULTS.get(kind, {}), **held})
  if held.get("quantization_config"):
    reader.problems.append("quantised weights (quantization_config)")
  result = _gpt2_config(reader) if kind == "gpt2" else _llama_config(reader)
  if reader.problems or result is None:
    raise UserError(
      f"{name}: this {kind} model cannot be loaded: "
      + "; ".join(reader.problems)
    )
  return result


class _Reader:
  """Reads fields of a config and collects what is wrong with them."""

  def __init__(self, held: Mapping[str, Any]):
    self.held = held
    self.problems: list[str] = []

  def get(self, key: str, default: Any = None) -> Any:
    """A field; `default` where it is absent or null."""
    value = self.held.get(key)
    return default if value is None else value

  def size(self, key: str) -> int:
    """A required positive integer."""
    value = self.held.get(key)
    if isinstance(value, int) and value > 0:
      return value
    self.problems.append(f"{key} is {value!r}, expected a positive integer")
    return 1

  def activation(self, key: str, default: str) -> str:
    """Our name of an activation function."""
    value = self.get(key, default)
    if value not in _ACTIVATIONS:
      self.problems.append(f"unknown activation {key}={value!r}")
    return _ACTIVATIONS.get(value, "silu")

  def reject(self, key: str, accepted: Any) -> None:
    """Notes a field that has another value than the one we implement."""
    value = self.get(key, accepted)
    if value != accepted:
      self.problems.append(f"{key}={value!r} is not supported")


def _gpt2_config(reader: _Reader) -> DecoderConfig:
  reader.reject("scale_attn_weights", True)
  reader.reject("scale_attn_by_inverse_layer_idx", False)
  reader.reject("add_cross_attention", False)
  width, heads = reader.size("n_embd"), reader.size("n_head")
  if width % heads:
    reader.problems.append(f"n_embd {width} is no multiple of n_head {heads}")
  return DecoderConfig(
    vocab=reader.size("vocab_size"),
    width=width,
    ffn=reader.get("n_inner", 4 * width),
    blocks=reader.size("n_layer"),
    heads=heads,
    kv_heads=heads,
    head_dim=width // heads,
    context=reader.get("n_positions", 1024),
    norm="layer",
    norm_eps=reader.get("layer_norm_epsilon", 1e-5),
    positions="learned",
    activation=reader.activation("activation_function", "gelu_new"),
    gated=False,
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    tied=reader.get("tie_word_embeddings", True),
    family="gpt2",
  )


def _llama_config(reader: _Reader) -> DecoderConfig:
  kind = reader.held["model_type"]
  width, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
  kv_heads = reader.get("num_key_value_heads", heads)
  if heads % kv_heads:
    reader.problems.append(
      f"num_attention_heads {heads} is no multiple of num_key_value_heads"
      f" {kv_heads}"
    )
  theta, scaling = _rope(reader)
  biased = kind in ("llama", "qwen3") and reader.get("attention_bias", False)
  return DecoderConfig(
    vocab=reader.size("vocab_size"),
    width=width,
    ffn=reader.size("intermediate_size"),
    blocks=reader.size("num_hidden_layers"),
    heads=heads,
    kv_heads=kv_heads,
    head_dim=reader.get("head_dim", width // heads),
    context=reader.size("max_position_embeddings"),
    norm_eps=reader.get("rms_norm_eps", 1e-6),
    rope_theta=theta,
    rope_scaling=scaling,
    activation=reader.activation("hidden_act", "silu"),
    qkv_bias=biased or kind == "qwen2",
    out_bias=biased,
    mlp_bias=kind == "llama" and reader.get("mlp_bias", False),
    qk_norm=kind == "qwen3",
    window=_window(reader, kind),
    tied=reader.get("tie_word_embeddings", False),
    family=kind,
  )


def _window(reader: _Reader, kind: str) -> int | None:
  """The sliding window, if every block has the same one."""
  if kind == "mistral":
    return reader.get("sliding_window")
  if kind == "llama" or not reader.get("use_sliding_window", False):
    return None
  window = reader.get("sliding_window", 4096)
  blocks = reader.size("num_hidden_layers")
  first = reader.get("max_window_layers", 28)
  types = set(
    reader.get("layer_types")
    or (
      "sliding_attention" if i >= first else "full_attention"
      for i in range(blocks)
    )
  )
  if types == {"full_attention"}:
    return None
  if types != {"sliding_attention"}:
    reader.problems.append(
      "blocks with a sliding window beside blocks without (use_sliding_window)"
    )
  return window


def _rope(reader: _Reader) -> tuple[float, RopeScaling | None]:
  """Rotary base and stretch, from either layout of the config."""
  held = dict(reader.get("rope_scaling") or reader.get("rope_parameters") or {})
  theta = float(held.get("rope_theta") or reader.get("rope_theta", 10000.0))
  part = held.get("partial_rotary_factor") or reader.get(
    "partial_rotary_factor", 1.0
  )
  if part != 1.0:
    reader.problems.append(f"partial_rotary_factor={part} is not supported")
  kind = held.get("rope_type") or held.get("type") or "default"
  if kind == "default":
    return theta, None
  if kind not in ("linear", "llama3", "yarn"):
    reader.problems.append(f"rope scaling {kind!r} is not supported")
    return theta, None
  context = (
    reader.get("original_max_position_embeddings")
    or held.get("original_max_position_embeddings")
    or reader.get("max_position_embeddings", 1)
  )
  factor = held.get("factor")
  if factor is None and kind == "yarn":
    factor = reader.get("max_position_embeddings", 1) / context
  if factor is None:
    reader.problems.append(f"rope scaling {kind!r} without a factor")
    return theta, None
  if kind == "linear":
    return theta, RopeScaling("linear", float(factor))
  if kind == "llama3":
    return theta, RopeScaling(
      kind,
      float(factor),
      original_context=context,
      low_freq_factor=float(held.get("low_freq_factor", 1.0)),
      high_freq_factor=float(held.get("high_freq_factor", 4.0)),
    )
  if held.get("truncate") is False:
    reader.problems.append("rope scaling 'yarn' with truncate=false")
  return theta, RopeScaling(
    kind,
    float(factor),
    original_context=context,
    beta_fast=float(held.get("beta_fast") or 32),
    beta_slow=float(held.get("beta_slow") or 1),
    attention_factor=_yarn_attention(held, float(factor)),
  )


def _yarn_attention(held: Mapping[str, Any], factor: float) -> float:
  """The factor on cos and sin: 0.1 ln(stretch) + 1 unless the config says."""
  if held.get("attention_factor") is not None:
    return float(held["attention_factor"])

  def scale(weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

  one, all_dims = held.get("mscale"), held.get("mscale_all_dim")
  return scale(one) / scale(all_dims) if one and all_dims else scale(1.0)


def to_transformers(config: DecoderConfig) -> dict[str, Any]:
  """The config.json of a decoder, readable by transformers 4 and 5."""
  if config.family == "gpt2":
    return {
      "model_type": "gpt2",
      "architectures": ["GPT2LMHeadModel"],
      "vocab_size": config.vocab,
      "n_embd": config.width,
      "n_inner": config.ffn,
      "n_layer": config.blocks,
      "n_head": config.heads,
      "n_positions": config.context,
      "layer_norm_epsilon": config.norm_eps,
      "activation_function": config.activation,
      "tie_word_embeddings": config.tied,
    }
  architecture = config.family.capitalize() + "ForCausalLM"
  result = {
    "model_type": config.family,
    "architectures": [architecture],
    "vocab_size": config.vocab,
    "hidden_size": config.width,
    "intermediate_size": config.ffn,
    "num_hidden_layers": config.blocks,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "max_position_embeddings": config.context,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.rope_theta,
    "rope_scaling": _rope_dict(config.rope_scaling),
    "hidden_act": config.activation,
    "attention_bias": config.out_bias,
    "mlp_bias": config.mlp_bias,
    "sliding_window": config.window,
    "tie_word_embeddings": config.tied,
  }
  if config.family in ("qwen2", "qwen3") and config.window is not None:
    result["use_sliding_window"] = True
    result["max_window_layers"] = 0
  return result


def _rope_dict(scaling: RopeScaling | None) -> dict[str, Any] | None:
  if scaling is None:
    return None
  result: dict[str, Any] = {
    "rope_type": scaling.kind,
    "factor": scaling.factor,
  }
  if scaling.kind == "llama3":
    result["low_freq_factor"] = scaling.low_freq_factor
    result["high_freq_factor"] = scaling.high_freq_factor
  if scaling.kind == "yarn":
    result["beta_fast"] = scaling.beta_fast
    result["beta_slow"] = scaling.beta_slow
    result["attention_factor"] = scaling.attention_factor
  if scaling.kind != "linear":
    result["original_max_position_embeddings"] = scaling.original_context
  return result
