"""Batches of random numbers in the shape of real ones, for any model shape."""

import jax.numpy as jnp
import numpy as np

from instructedit_jax.editing.rows import Rows
from instructedit_jax.editors import conditioner
from instructedit_jax.models.config import DecoderConfig
from instructedit_jax.training.batches import Batch, BatchShape


def batch(
  model: DecoderConfig, shape: BatchShape, size: int, seed: int = 0
) -> Batch:
  """A training batch whose every position is in use: the worst case."""
  rng = np.random.default_rng(seed)
  keep, ask = shape.keep_positions, shape.edit_positions

  def normal(*axes: int) -> np.ndarray:
    return rng.normal(size=(size, *axes)).astype(np.float32)

  return Batch(
    edit=_rows(rng, model, size, shape.edit_tokens, shape.edit_rows),
    query=_rows(rng, model, size, shape.query_tokens, keep + ask),
    base=normal(keep, model.width),
    weight=np.concatenate(
      [np.full((size, keep), 1 / keep), np.full((size, ask), 1 / ask)], 1
    ).astype(np.float32),
    avoid=np.zeros((size, ask), bool),
    instruction=normal(conditioner.size(model.width)),
    instructed=np.ones(size, bool),
  )


def _rows(
  rng: np.random.Generator,
  model: DecoderConfig,
  size: int,
  tokens: int,
  scored: int,
) -> Rows:
  """Sequences of about 14 tokens side by side; the last tokens are scored."""
  positions = np.arange(tokens) % 14
  ends = np.minimum(np.arange(tokens) - positions + 14, tokens)
  places = np.sort(rng.permuted(np.tile(np.arange(tokens), (size, 1)), axis=1))
  at = places[:, -scored:]
  shape = (size, tokens)
  return Rows(
    rng.normal(size=(*shape, model.width)).astype(np.float32),
    np.broadcast_to(positions[None], shape).astype(np.int32),
    np.broadcast_to(ends[None], shape).astype(np.int32),
    at.astype(np.int32),
    rng.integers(0, model.vocab, at.shape).astype(np.int32),
    np.ones(at.shape, bool),
  )


def tokens(model: DecoderConfig, rows: int, length: int) -> jnp.ndarray:
  """Random token ids [rows, length]."""
  rng = np.random.default_rng(1)
  return jnp.asarray(rng.integers(0, model.vocab, (rows, length)), jnp.int32)
