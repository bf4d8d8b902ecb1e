"""One digest of plain values, for the protocols of runs."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
  """SHA-256 (hex) of what JSON can hold; the order of keys does not matter."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
