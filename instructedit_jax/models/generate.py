"""Text from a decoder, edited or not, with a key-value cache.

Axes: B rows, T prompt tokens (padded on the right), N new tokens, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from instructedit_jax.errors import UserError
from instructedit_jax.models.decoder import Cache, take_tokens
from instructedit_jax.models.language_model import LanguageModel

# Prompt lengths are rounded up to one of these, so few programs are compiled.
_BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Decoded(NamedTuple):
  """What `decode` wrote.

  Attributes:
    tokens: int32 [B, N]; what follows a row's `counts` is filler.
    counts: int32 [B], tokens before the stop token (or N).
    stopped: bool [B], whether a stop token ended the row.
  """

  tokens: jax.Array
  counts: jax.Array
  stopped: jax.Array


class _State(NamedTuple):
  """What the decoding loop carries; `step` tokens are written."""

  cache: Cache
  new: jax.Array
  counts: jax.Array
  done: jax.Array
  stopped: jax.Array
  step: jax.Array


def generate(
  model: LanguageModel,
  prompts: Sequence[str],
  *,
  max_new_tokens: int,
  edit: Any = None,
  temperature: float = 0.0,
  top_k: int | None = None,
  seed: int = 0,
  stop: Sequence[str] = (),
  batch_size: int = 8,
  params: nnx.State | None = None,
) -> list[str]:
  """Continues prompts.

  A row's result does not depend on the rows it is batched with (up to the
  rounding of the arithmetic), nor on `batch_size`.

  Args:
    model: the language model.
    prompts: texts, in any order of length.
    max_new_tokens: a continuation's length at most.
    edit: a registered pytree with `tap()` and `matrices`, or None. Where its
      attribute `batched` is true it holds one edit a prompt (`count`), and
      indexing it with an array takes those rows.
    temperature: 0 takes the likeliest token; above 0 samples.
    top_k: sample among the k likeliest tokens only.
    seed: of the sampling.
    stop: texts that end a continuation; they are cut off. The tokenizer's
      end-of-text tokens always do.
    batch_size: prompts decoded at once.
    params: parameters to use instead of the model's own.

  Returns:
    The continuations, without the prompts, in the order of `prompts`.

  Raises:
    UserError: a prompt is empty or does not fit the model's context, an option
      makes no sense, or the edit is none of this model as it was loaded or
      holds more or fewer edits than there are prompts.
  """
  text = model.text
  _check_options(max_new_tokens, temperature, top_k, batch_size)
  encoded = [text.encode(prompt) for prompt in prompts]
  _check_prompts(encoded, max_new_tokens, model)
  _check_edit(edit, len(prompts), model)
  single = [text.encode(word, bos=False) for word in stop]
  ends = text.eos_ids | {ids[0] for ids in single if len(ids) == 1}
  run = functools.partial(
    decode,
    model.graph,
    model.params if params is None else params,
    stop_ids=np.asarray(sorted(ends), np.int32),
    temperature=np.float32(temperature),
    max_new_tokens=max_new_tokens,
    sample=temperature > 0,
    top_k=top_k,
  )
  results = [""] * len(prompts)
  # Neighbours in length share a batch, so little is padded.
  order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
  for begin in range(0, len(order), batch_size):
    chosen = order[begin : begin + batch_size]
    rows = _rows(len(chosen), batch_size)
    # Rows beyond the prompts repeat the last one and are not waited for.
    index = np.asarray(chosen + [chosen[-1]] * (rows - len(chosen)))
    tokens, lengths = _pad([encoded[i] for i in index], text.pad_id, model)
    decoded = run(
      tokens,
      lengths,
      np.arange(rows) < len(chosen),
      edit=edit[index] if getattr(edit, "batched", False) else edit,
      keys=_keys(seed, index),
    )
    new, counts = jax.device_get((decoded.tokens, decoded.counts))
    for row, i in enumerate(chosen):
      ids = new[row, : counts[row]].tolist()
      results[i] = _cut(text.decode_after(encoded[i], ids), stop)
  return results


@functools.partial(
  jax.jit, static_argnames=("graph", "max_new_tokens", "sample", "top_k")
)
def decode(
  graph: nnx.GraphDef,
  params: nnx.State,
  tokens: jax.Array,
  lengths: jax.Array,
  live: jax.Array,
  stop_ids: jax.Array,
  edit: Any = None,
  keys: jax.Array | None = None,
  temperature: jax.Array | float = 1.0,
  *,
  max_new_tokens: int,
  sample: bool = False,
  top_k: int | None = None,
) -> Decoded:
  """Continues rows of tokens until all have stopped; one compiled program.

  Args:
    graph, params: the decoder's two halves.
    tokens: int32 [B, T], padded on the right.
    lengths: int32 [B], tokens before the padding, at least 1.
    live: bool [B]; rows that are not are left empty and not waited for.
    stop_ids: int32 [S], tokens that end a row.
    edit: a pytree with `tap()`, or None.
    keys: [B] random keys; needed only to sample.
    temperature: divides the logits when sampling.
    max_new_tokens: N.
    sample: draw tokens instead of taking the likeliest.
    top_k: draw among the k likeliest only.
  """
  decoder = nnx.merge(graph, params)
  tap = None if edit is None else edit.tap()
  rows, width = tokens.shape
  dtype = decoder.embedding[...].dtype
  cache = decoder.empty_cache(rows, width + max_new_tokens, dtype)
  positions = jnp.broadcast_to(jnp.arange(width)[None, :], tokens.shape)
  x, cache = decoder.step(tokens, positions, cache, tap)
  state = _State(
    cache,
    jnp.zeros((rows, max_new_tokens), jnp.int32),
    jnp.zeros((rows,), jnp.int32),
    ~jnp.asarray(live),
    jnp.zeros((rows,), bool),
    jnp.int32(0),
  )

  def choose(state: _State, x: jax.Array) -> _State:
    logits = decoder.logits(x)
    if sample:
      chosen = _draw(logits / temperature, keys, state.step, top_k)
    else:
      chosen = logits.argmax(-1).astype(jnp.int32)
    return _record(state, chosen, jnp.asarray(stop_ids, jnp.int32))

  def advance(state: _State) -> _State:
    newest = jax.lax.dynamic_slice_in_dim(state.new, state.step - 1, 1, 1)
    places = (lengths + state.step - 1)[:, None]
    x, cache = decoder.step(newest, places, state.cache, tap)
    return choose(state._replace(cache=cache), x[:, 0])

  state = choose(state, take_tokens(x, lengths[:, None] - 1)[:, 0])
  state = jax.lax.while_loop(
    lambda state: (state.step < max_new_tokens) & ~state.done.all(),
    advance,
    state,
  )
  return Decoded(state.new, state.counts, state.stopped)


def _record(state: _State, chosen: jax.Array, stop_ids: jax.Array) -> _State:
  """Writes one token a row, int32 [B], and notes which rows it ends."""
  ends = (chosen[:, None] == stop_ids[None, :]).any(-1) & ~state.done
  done = state.done | ends
  return state._replace(
    new=state.new.at[:, state.step].set(chosen),
    counts=state.counts + (~done).astype(jnp.int32),
    done=done,
    stopped=state.stopped | ends,
    step=state.step + 1,
  )


def _draw(
  logits: jax.Array,
  keys: jax.Array | None,
  step: jax.Array,
  top_k: int | None,
) -> jax.Array:
  """One token a row, int32 [B], from logits [B, V]."""
  if keys is None:
    raise ValueError("sampling needs keys")
  if top_k is not None:
    kept, ids = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))
  else:
    kept, ids = logits, None
  each = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
  drawn = jax.vmap(jax.random.categorical)(each, kept)
  if ids is not None:
    drawn = jnp.take_along_axis(ids, drawn[:, None], 1)[:, 0]
  return drawn.astype(jnp.int32)


def _keys(seed: int, index: np.ndarray) -> jax.Array:
  """A key for each prompt, whatever batch it lands in."""
  key = jax.random.key(seed)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, index)


def _pad(
  encoded: list[list[int]], filler: int, model: LanguageModel
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens as int32 [B, T], T a bucket within the context; their lengths."""
  lengths = np.array([len(ids) for ids in encoded], np.int32)
  width = min(_bucket(int(lengths.max())), model.config.context)
  tokens = np.full((len(encoded), width), filler, np.int32)
  for row, ids in enumerate(encoded):
    tokens[row, : len(ids)] = ids
  return tokens, lengths


def _bucket(width: int) -> int:
  for size in _BUCKETS:
    if width <= size:
      return size
  return -(-width // _BUCKETS[-1]) * _BUCKETS[-1]


def _rows(wanted: int, batch_size: int) -> int:
  """The batch's rows: a power of two, or batch_size, that holds them."""
  return min(batch_size, 1 << (wanted - 1).bit_length())


def _cut(text: str, stop: Sequence[str]) -> str:
  """The text in front of the first stop text."""
  places = [text.find(word) for word in stop if word and word in text]
  return text[: min(places)] if places else text


def _check_options(
  max_new_tokens: int, temperature: float, top_k: int | None, batch_size: int
) -> None:
  for name, value, least in (
    ("max_new_tokens", max_new_tokens, 1),
    ("batch_size", batch_size, 1),
    ("top_k", 1 if top_k is None else top_k, 1),
    ("temperature", temperature, 0),
  ):
    if value < least:
      raise UserError(f"{name}={value}: must be at least {least}")


def _check_edit(edit: Any, prompts: int, model: LanguageModel) -> None:
  if edit is None:
    return
  model.require_editable(edit.matrices)
  if getattr(edit, "batched", False) and edit.count != prompts:
    raise UserError(
      f"{edit.count} edits for {prompts} prompts: give an edit for each prompt,"
      " or one for all of them, such as edits[0] or edits.combined()"
    )


def _check_prompts(
  encoded: list[list[int]], max_new_tokens: int, model: LanguageModel
) -> None:
  context = model.config.context
  for i, ids in enumerate(encoded):
    if not ids:
      raise UserError(f"prompt {i} is empty: there is nothing to continue")
    if len(ids) + max_new_tokens > context:
      raise UserError(
        f"prompt {i} has {len(ids)} tokens; with {max_new_tokens} new ones it"
        f" exceeds the context of {model.name}, {context} tokens"
      )
