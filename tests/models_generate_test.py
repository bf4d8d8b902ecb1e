"""Cached, batched generation against the plain way, token by token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models import presets
from instructedit_jax.models.decoder import Sequence
from instructedit_jax.models.generate import decode, generate
from instructedit_jax.models.language_model import LanguageModel, random_model

FAMILIES = ("tiny-gpt2", "tiny-llama")
PROMPTS = ("The capital", "a", "One day in spring", "x = 1;", "zz")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shift:
  """Adds a vector to one matrix's output: [m], or [B, m] for B prompts."""

  vector: jax.Array

  @property
  def batched(self) -> bool:
    return self.vector.ndim == 2

  def __getitem__(self, index):
    return Shift(self.vector[index])

  matrices = ("2.down",)

  @property
  def count(self) -> int:
    return len(self.vector)

  def tap(self):
    def act(name, x, y):
      if name != "2.down":
        return y
      return y + self.vector.reshape((-1, 1, y.shape[-1]))

    return act


@functools.cache
def make(family: str) -> LanguageModel:
  model = random_model(presets.preset(family))
  params = jax.tree_util.tree_map_with_path(
    lambda path, leaf: leaf * (1 if "norm" in str(path) else 10), model.params
  )
  return dataclasses.replace(model, params=params)


@functools.partial(jax.jit, static_argnames="graph")
def next_token(graph, params, tokens, length, edit):
  decoder = nnx.merge(graph, params)
  positions = jnp.arange(tokens.shape[1])[None]
  sequence = Sequence(positions, (positions < length).astype(jnp.int32))
  tap = None if edit is None else edit.tap()
  logits = decoder(tokens, sequence, tap)
  return logits[0, length - 1].argmax()


def uncached(model, prompt: str, count: int, edit=None) -> list[int]:
  """Greedy tokens from whole forward passes; no stop token."""
  ids = list(model.text.encode(prompt))
  begin = len(ids)
  for _ in range(count):
    row = np.zeros((1, 32), np.int32)
    row[0, : len(ids)] = ids
    found = next_token(model.graph, model.params, row, len(ids), edit)
    ids.append(int(found))
  return ids[begin:]


def decode_all(model, prompts, count, stop_ids=(), edit=None, **options):
  ids = [model.text.encode(prompt) for prompt in prompts]
  tokens = np.zeros((len(ids), 20), np.int32)
  for row, each in enumerate(ids):
    tokens[row, : len(each)] = each
  return decode(
    model.graph,
    model.params,
    tokens,
    np.array([len(each) for each in ids], np.int32),
    np.ones(len(ids), bool),
    np.asarray(stop_ids, np.int32),
    edit,
    max_new_tokens=count,
    **options,
  )


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_uncached(family):
  model = make(family)
  result = decode_all(model, PROMPTS, 8)
  expected = [uncached(model, prompt, 8) for prompt in PROMPTS]
  assert len({tuple(row) for row in expected}) > 1
  np.testing.assert_array_equal(result.tokens, expected)
  np.testing.assert_array_equal(result.counts, [8] * len(PROMPTS))
  assert not result.stopped.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_edited_generation(family):
  model = make(family)
  vectors = jax.random.normal(jax.random.key(3), (len(PROMPTS), 32)) * 9
  plain = [uncached(model, prompt, 6) for prompt in PROMPTS]
  one = decode_all(model, PROMPTS, 6, edit=Shift(vectors[0]))
  expected = [uncached(model, p, 6, Shift(vectors[0])) for p in PROMPTS]
  np.testing.assert_array_equal(one.tokens, expected)
  assert expected != plain
  each = decode_all(model, PROMPTS, 6, edit=Shift(vectors))
  expected = [
    uncached(model, prompt, 6, Shift(vector))
    for prompt, vector in zip(PROMPTS, vectors, strict=True)
  ]
  np.testing.assert_array_equal(each.tokens, expected)


def test_one_edit_a_prompt_follows_its_prompt():
  model = make("tiny-llama")
  vectors = jax.random.normal(jax.random.key(3), (len(PROMPTS), 32)) * 9
  together = generate(
    model, PROMPTS, max_new_tokens=5, edit=Shift(vectors), batch_size=2
  )
  alone = [
    generate(model, [prompt], max_new_tokens=5, edit=Shift(vector))[0]
    for prompt, vector in zip(PROMPTS, vectors, strict=True)
  ]
  assert together == alone


@pytest.mark.parametrize("prompts", [1, 3])
def test_edits_and_prompts_are_counted(prompts):
  edits = Shift(jnp.zeros((2, make("tiny-llama").config.width)))
  with pytest.raises(UserError, match=f"2 edits for {prompts} prompts"):
    make("tiny-llama").generate(["a"] * prompts, edit=edits)


def test_rows_stop_at_their_own_stop_token():
  model = make("tiny-llama")
  free = [uncached(model, prompt, 8) for prompt in PROMPTS]
  stop = free[0][3]
  result = decode_all(model, PROMPTS, 8, [stop])
  for row, ids in enumerate(free):
    count = ids.index(stop) if stop in ids else 8
    assert result.counts[row] == count
    assert result.stopped[row] == (stop in ids)
    assert result.tokens[row, :count].tolist() == ids[:count]


def test_loop_ends_when_all_rows_have():
  model = make("tiny-llama")
  every = np.arange(272)
  result = decode_all(model, PROMPTS, 6, every)
  assert result.stopped.all()
  assert not result.counts.any()
  # Later columns were never written.
  assert not result.tokens[:, 1:].any()


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_k": 5}])
def test_results_do_not_depend_on_batching(options):
  model = make("tiny-gpt2")
  results = [
    generate(model, PROMPTS, max_new_tokens=6, batch_size=size, **options)
    for size in (1, 2, 8)
  ]
  assert results[0] == results[1] == results[2]
  backwards = generate(model, PROMPTS[::-1], max_new_tokens=6)
  if not options:
    assert backwards[::-1] == results[0]


def test_sampling_follows_seed_and_top_k():
  model = make("tiny-llama")
  greedy = generate(model, PROMPTS, max_new_tokens=6)
  run = functools.partial(generate, model, PROMPTS, max_new_tokens=6)
  assert run(temperature=2.0, seed=1) == run(temperature=2.0, seed=1)
  assert run(temperature=2.0, seed=1) != run(temperature=2.0, seed=2)
  assert run(temperature=2.0, top_k=1) == greedy
  assert run(temperature=1e-6) == greedy


def test_sampling_frequencies():
  model = make("tiny-llama")
  rows = 512
  keys = jax.random.split(jax.random.key(0), rows)
  result = decode_all(
    model,
    ["abc"] * rows,
    1,
    sample=True,
    top_k=3,
    keys=keys,
    temperature=1.5,
  )
  tokens = np.asarray(model.text.encode("abc"))[None]
  positions = jnp.arange(3)[None]
  decoder = model.decoder()
  logits = decoder(tokens, Sequence(positions, positions * 0 + 1))[0, -1]
  best, ids = jax.lax.top_k(logits / 1.5, 3)
  expected = jax.nn.softmax(best)
  found = (result.tokens == ids[None]).mean(0)
  assert found.sum() == pytest.approx(1.0)
  # Four standard errors of a frequency from 512 draws: at most 0.09.
  np.testing.assert_allclose(found, expected, atol=0.09)


def test_stop_texts_are_cut_off():
  model = make("tiny-llama")
  whole = generate(model, PROMPTS, max_new_tokens=8)
  marks = [text[3] for text in whole if len(text) > 3][:1]
  cut = generate(model, PROMPTS, max_new_tokens=8, stop=marks)
  assert cut == [text.split(marks[0])[0] for text in whole]
  assert generate(model, [], max_new_tokens=3) == []


def test_few_programs_are_compiled():
  model = make("tiny-llama")
  prompts = ["a" * size for size in (3, 5, 9, 14, 16)]
  decode.clear_cache()  # what other tests compiled could serve here
  generate(model, prompts, max_new_tokens=3, batch_size=1)
  assert decode._cache_size() == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_context_can_be_filled_to_the_end(family):
  model = make(family)
  config = dataclasses.replace(model.config, context=24)
  small = random_model(config)
  prompt = "a" * 18
  run = functools.partial(generate, small, [prompt])
  run(max_new_tokens=6)
  ids = small.text.encode(prompt)
  with pytest.raises(UserError, match="exceeds the context of random, 24"):
    run(max_new_tokens=24 - len(ids) + 1)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
    ({"batch_size": 0}, "batch_size=0: must be at least 1"),
    ({"top_k": 0}, "top_k=0: must be at least 1"),
    ({"temperature": -1.0}, r"temperature=-1.0: must be at least 0"),
    ({"prompts": ["a", ""]}, "prompt 1 is empty"),
  ],
)
def test_bad_requests(options, message):
  arguments = {"prompts": ["a"], "max_new_tokens": 2, **options}
  with pytest.raises(UserError, match=message):
    generate(make("tiny-llama"), **arguments)


def test_a_model_without_tokenizer_cannot_generate():
  model = dataclasses.replace(make("tiny-llama"), tokenizer=None)
  with pytest.raises(UserError, match="without a tokenizer"):
    generate(model, ["a"], max_new_tokens=2)


def test_bfloat16_generates():
  model = random_model(presets.preset("tiny-gpt2"), dtype="bfloat16")
  assert len(generate(model, PROMPTS, max_new_tokens=3)) == len(PROMPTS)
