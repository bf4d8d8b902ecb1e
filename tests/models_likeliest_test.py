"""The likeliest token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructedit_jax.models.likeliest import likeliest


@pytest.mark.parametrize("vocabulary", [7, 257, 512, 1733 * 29, 49152])
def test_is_argmax(vocabulary):
  rng = np.random.default_rng(0)
  # Few values, so that most rows have several largest entries.
  logits = rng.integers(0, 5, (3, 4, vocabulary)).astype(np.float32)
  found = jax.jit(likeliest)(logits)
  assert found.dtype == jnp.argmax(logits, -1).dtype
  np.testing.assert_array_equal(found, logits.argmax(-1))


def test_keeps_what_is_not_a_number():
  logits = np.zeros((2, 512), np.float32)
  logits[0, 300] = np.nan
  logits[1, 400] = np.inf
  np.testing.assert_array_equal(likeliest(logits), logits.argmax(-1))
  assert likeliest(np.zeros((0, 512), np.float32)).shape == (0,)
