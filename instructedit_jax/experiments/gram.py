"""Inner products of updates from their factors; nothing is materialised.

For W_i = sum over rows r of u_ir v_ir^T, and likewise W_j,

  <W_i, W_j> = sum over rows r, s of (u_ir . u_js) (v_ir . v_js),

so N updates of an n x m matrix need N R (n + m) numbers instead of N n m.

Axes: N updates, R rows of each, n inputs, m outputs of a matrix.
"""

import numpy as np

_BLOCK = 1 << 12  # rows on one side of a block of products


def inner_products(u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """All <W_i, W_j>, float64 [N, N].

  Args:
    u: [N, R, n]; a row that is zero counts for nothing.
    v: [N, R, m].
  """
  count, rows = u.shape[:2]
  flat_u, flat_v = (x.reshape(count * rows, x.shape[-1]) for x in (u, v))
  found = np.empty((count, count))
  size = max(1, _BLOCK // rows)
  for start in range(0, count, size):
    chosen = slice(start * rows, (start + size) * rows)
    # Symmetric: only what lies on and right of the diagonal is computed.
    product = flat_u[chosen] @ flat_u[start * rows :].T
    product *= flat_v[chosen] @ flat_v[start * rows :].T
    blocks = product.reshape(-1, rows, count - start, rows)
    block = blocks.sum((1, 3), dtype=np.float64)
    found[start : start + size, start:] = block
    found[start:, start : start + size] = block.T
  return found


def cosines(gram: np.ndarray) -> np.ndarray:
  """Inner products of the updates' directions, W / |W|; 0 where |W| is 0."""
  norm = norms(gram)
  scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > 0)
  return gram * scale[:, None] * scale[None, :]


def norms(gram: np.ndarray) -> np.ndarray:
  """Frobenius norms [N]; rounding may leave a tiny negative square."""
  return np.sqrt(np.maximum(np.diag(gram), 0.0))
