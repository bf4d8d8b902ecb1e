"""Fluency: how varied a text is, as the entropy of its n-grams.

A broken model repeats itself, which lowers the entropy; the number says
nothing of grammar or sense. It grows with the length of the text, so only
texts generated under the same limit compare.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

# A word with its apostrophes and hyphens, a number with its marks, or any
# other character that is not a blank by itself.
_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]|_")


def words(text: str) -> list[str]:
  """Words, numbers and single punctuation marks, in order.

  >>> words("It's 3.5 km, no?")
  ["It's", '3.5', 'km', ',', 'no', '?']
  """
  return _WORD.findall(text)


def entropy(tokens: Sequence[str], n: int) -> float:
  """Entropy in bits of the distribution of n-grams; 0 where there is none."""
  grams = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
  total = sum(grams.values())
  # Never -0.0, which the log of a single n-gram's share would give.
  return sum(
    count / total * math.log2(total / count) for count in grams.values()
  )


def fluency(text: str) -> float:
  """H2 / 3 + 2 H3 / 3 in bits, H_n the entropy of the text's n-grams.

  That is the mean of 2/3 H2 and 4/3 H3, the weighting of the field since
  ROME (arXiv 2202.05262). Published tables show 100 times it.
  """
  tokens = words(text)
  return entropy(tokens, 2) / 3 + 2 * entropy(tokens, 3) / 3
