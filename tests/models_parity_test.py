"""Logits against transformers' torch models, from random tiny configs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.models import families
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.language_model import load_model, save_hf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# Both sides compute in float32 with sums in another order: errors of some
# 1e-6 relative a layer. The logits are of order 1, the models 3 layers deep.
TOLERANCE = 1e-4

_GPT2 = {
  "vocab_size": 61,
  "n_embd": 24,
  "n_layer": 3,
  "n_head": 3,
  "n_positions": 64,
}
_LLAMA = {
  "vocab_size": 61,
  "hidden_size": 24,
  "intermediate_size": 40,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 8,
  "max_position_embeddings": 64,
}
_LLAMA3 = {
  "rope_type": "llama3",
  "factor": 8.0,
  "low_freq_factor": 1.0,
  "high_freq_factor": 4.0,
  "original_max_position_embeddings": 16,
}
_YARN = {
  "rope_type": "yarn",
  "factor": 4.0,
  "original_max_position_embeddings": 16,
}

CASES = {
  "gpt2": ("gpt2", {}),
  "gpt2_untied": ("gpt2", {"tie_word_embeddings": False}),
  "gpt2_inner": ("gpt2", {"n_inner": 31, "activation_function": "gelu"}),
  "gpt2_relu": ("gpt2", {"activation_function": "relu"}),
  "gpt2_tanh": ("gpt2", {"activation_function": "gelu_pytorch_tanh"}),
  "llama": ("llama", {}),
  "llama_tied": ("llama", {"tie_word_embeddings": True}),
  "llama_heads": ("llama", {"num_key_value_heads": 4, "head_dim": 6}),
  "llama_one_key": ("llama", {"num_key_value_heads": 1}),
  "llama_biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
  "llama_linear": (
    "llama",
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
  ),
  "llama_llama3": ("llama", {"rope_scaling": _LLAMA3, "rope_theta": 500.0}),
  "llama_yarn": ("llama", {"rope_scaling": _YARN, "head_dim": 16}),
  "llama_yarn_mscale": (
    "llama",
    {
      "rope_scaling": {
        **_YARN,
        "mscale": 1.0,
        "mscale_all_dim": 0.8,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
      }
    },
  ),
  "mistral_window": ("mistral", {"sliding_window": 5}),
  "mistral_full": ("mistral", {"sliding_window": None}),
  "qwen2": ("qwen2", {"tie_word_embeddings": True}),
  "qwen2_window": (
    "qwen2",
    {
      "use_sliding_window": True,
      "sliding_window": 4,
      "max_window_layers": 0,
    },
  ),
  "qwen3": ("qwen3", {}),
  "qwen3_biases": ("qwen3", {"attention_bias": True}),
}


def build(kind: str, changes: dict, seed: int = 0):
  """A torch model with every parameter random, biases and norms too."""
  base = _GPT2 if kind == "gpt2" else _LLAMA
  config = transformers.AutoConfig.for_model(
    kind, **{**base, "attn_implementation": "eager", **changes}
  )
  model = transformers.AutoModelForCausalLM.from_config(config).eval()
  torch.manual_seed(seed)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      centre = 1.0 if "norm" in name or "ln_" in name else 0.0
      spread = 0.3 if parameter.ndim == 1 else 0.2
      parameter.copy_(
        centre * ("bias" not in name) + spread * torch.randn(parameter.shape)
      )
  return model


def torch_logits(model, tokens: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    return model(torch.tensor(tokens)).logits.float().numpy()


def our_logits(model, tokens: np.ndarray) -> np.ndarray:
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  sequence = Sequence(positions, jnp.ones_like(positions))
  run = jax.jit(lambda params: model.decoder(params)(tokens, sequence))
  return np.asarray(run(model.params))


@pytest.fixture
def tokens() -> np.ndarray:
  return np.random.default_rng(0).integers(0, 61, (2, 23))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_transformers(case, tokens, tmp_path):
  theirs = build(*CASES[case])
  theirs.save_pretrained(tmp_path / "model")
  expected = torch_logits(theirs, tokens)
  assert expected.std() > 0.1
  ours = load_model(str(tmp_path / "model"), suffix=2, tokenizer=None)
  np.testing.assert_allclose(our_logits(ours, tokens), expected, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_saved_model_loads_in_transformers(case, tokens, tmp_path):
  theirs = build(*CASES[case])
  theirs.save_pretrained(tmp_path / "model")
  ours = load_model(str(tmp_path / "model"), suffix=1, tokenizer=None)
  save_hf(ours, tmp_path / "again")
  again = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "again", attn_implementation="eager"
  )
  assert again.dtype == torch.float32
  held = again.state_dict()
  assert held.keys() == theirs.state_dict().keys()
  for name, value in theirs.state_dict().items():
    assert torch.equal(held[name], value), name
  # Same weights; two spellings of the tanh GELU round differently.
  np.testing.assert_allclose(
    torch_logits(again, tokens), torch_logits(theirs, tokens), atol=1e-5
  )


@pytest.mark.parametrize("case", ["llama_llama3", "llama_yarn", "mistral_full"])
def test_old_and_new_config_layouts_agree(case, tmp_path):
  kind, changes = CASES[case]
  config = transformers.AutoConfig.for_model(kind, **{**_LLAMA, **changes})
  new = config.to_dict()
  assert "rope_parameters" in new
  old = {key: value for key, value in new.items() if key != "rope_parameters"}
  old["rope_theta"] = changes.get("rope_theta", 10000.0)
  scaling = changes.get("rope_scaling")
  if scaling is not None:
    scaling = dict(scaling)
    scaling["type"] = scaling.pop("rope_type")
  old["rope_scaling"] = scaling
  assert families.from_transformers(old) == families.from_transformers(new)
  assert families.from_transformers(config) == families.from_transformers(new)


@pytest.mark.parametrize("kind", families.SUPPORTED)
def test_defaults_are_those_of_transformers(kind):
  full = transformers.AutoConfig.for_model(kind).to_dict()
  sizes = {
    key: full[key]
    for key in (
      "model_type",
      *(_GPT2 if kind == "gpt2" else _LLAMA),
      "num_hidden_layers",
    )
    if key not in ("max_position_embeddings", "num_key_value_heads", "head_dim")
    and key in full
  }
  assert families.from_transformers(sizes) == families.from_transformers(full)


def test_bfloat16_is_close_and_keeps_norms(tokens, tmp_path):
  theirs = build("llama", {"attention_bias": True})
  theirs.save_pretrained(tmp_path / "model")
  ours = load_model(
    str(tmp_path / "model"), suffix=1, tokenizer=None, dtype="bfloat16"
  )
  kinds = {
    (leaf.dtype.name, leaf.ndim)
    for leaf in jax.tree.leaves(ours.params["suffix_blocks"])
  }
  assert kinds == {("bfloat16", 2), ("float32", 1)}
  expected = torch_logits(theirs.to(torch.bfloat16), tokens)
  actual = our_logits(ours, tokens)
  assert actual.dtype == np.float32
  # bfloat16 has 8 bits: about 0.4 % a rounding.
  assert np.abs(actual - expected).mean() < 0.02 * np.abs(expected).max()


def test_half_precision_checkpoint_is_read_exactly(tokens, tmp_path):
  theirs = build("llama", {}).to(torch.float16)
  theirs.save_pretrained(tmp_path / "half")
  config = json.loads((tmp_path / "half" / "config.json").read_text())
  assert config["dtype"] == "float16"
  ours = load_model(str(tmp_path / "half"), suffix=1, tokenizer=None)
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "half", dtype=torch.float32
  )
  expected = torch_logits(theirs, tokens)
  np.testing.assert_allclose(our_logits(ours, tokens), expected, atol=TOLERANCE)
