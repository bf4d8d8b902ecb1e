"""Who writes descriptions: anything that answers a list of messages."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from instructedit_jax.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Message:
  """One turn of a conversation; role is "system" or "user"."""

  role: str
  content: str


@dataclasses.dataclass(frozen=True)
class Reply:
  """An answer and the tokens it took; None where nobody counted them."""

  text: str
  prompt_tokens: int | None = None
  reply_tokens: int | None = None


class MalformedReply(ValueError):
  """An answer that is not what was asked for; asking again may help."""


class Writer(Protocol):
  """Answers a conversation."""

  @property
  def name(self) -> str:
    """What stands in the provenance; never a secret."""

  def write(
    self, messages: Sequence[Message], before_call: Callable[[], None]
  ) -> Reply:
    """One answer.

    Args:
      messages: the conversation.
      before_call: called before every request, retries included; what it
        raises ends the attempt.

    Raises:
      MalformedReply: the answer has another form than the protocol's.
      UserError: there is no answer to be had.
    """


@dataclasses.dataclass
class LocalWriter:
  """A model of this library, sampling; base models continue a list.

  Attributes:
    model: the language model.
    max_tokens: new tokens of an answer.
    temperature: of the sampling.
    seed: of the first answer; the next ones follow.
  """

  model: LanguageModel
  max_tokens: int = 700
  temperature: float = 0.9
  seed: int = 0

  @property
  def name(self) -> str:
    """The model's name and fingerprint."""
    return f"local:{self.model.name}:{self.model.fingerprint[:16]}"

  def write(
    self, messages: Sequence[Message], before_call: Callable[[], None]
  ) -> Reply:
    """Continues "1." after the conversation."""
    before_call()
    asked = "\n\n".join(message.content for message in messages)
    room = self.model.config.context - self.max_tokens - 8
    tokens = self.model.text.encode(f"{asked}\n\n1.")
    if len(tokens) > room > 0:
      # The end holds what is asked for; examples before it can go.
      asked = self.model.text.decode(tokens[-room:]).removesuffix("\n\n1.")
    (text,) = self.model.generate(
      f"{asked}\n\n1.",
      max_new_tokens=self.max_tokens,
      temperature=self.temperature,
      top_k=40,
      seed=self.seed,
    )
    self.seed += 1
    return Reply("1." + text)
