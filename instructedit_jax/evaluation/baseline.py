"""What the unedited model does, computed once for all editors."""

from collections.abc import Sequence

from instructedit_jax.editing.prefix import PrefixCache
from instructedit_jax.editing.sequences import Scored
from instructedit_jax.evaluation.predictions import Unedited
from instructedit_jax.models.generate import generate
from instructedit_jax.models.language_model import LanguageModel

STOP = ("\n",)
# Prompts continued at a time.
BATCH = 64


class Baseline:
  """A model with its prefix states and its own answers, kept.

  Attributes:
    known: what it makes of answers under teacher forcing.

  Args:
    model: the base model.
    max_bytes: memory for prefix states.
  """

  def __init__(self, model: LanguageModel, max_bytes: int = 4 << 30):
    self.model = model
    self.cache = PrefixCache(model, max_bytes)
    self.known: dict[Scored, Unedited] = {}
    self._answers: dict[tuple[str, int], str] = {}

  def answers(self, prompts: Sequence[str], tokens: int) -> list[str]:
    """Greedy continuations of up to `tokens` tokens, cut at a line break."""
    missing = [
      prompt
      for prompt in dict.fromkeys(prompts)
      if (prompt, tokens) not in self._answers
    ]
    texts = generate(
      self.model, missing, max_new_tokens=tokens, stop=STOP, batch_size=BATCH
    )
    for prompt, text in zip(missing, texts, strict=True):
      self._answers[prompt, tokens] = text
    return [self._answers[prompt, tokens] for prompt in prompts]
