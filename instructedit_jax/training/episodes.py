"""An episode: one edit to make, and what to ask the edited model.

Every visit of a record draws afresh: the instruction, the paraphrases, the
out-of-scope prompts. A pure function of (record, random state).
"""

import dataclasses
import enum
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from instructedit_jax.editing.sequences import Scored, TooLongError
from instructedit_jax.editors.metalearned import EditorConfig
from instructedit_jax.errors import require_least
from instructedit_jax.tasks import augment, drawing, instructions
from instructedit_jax.tasks.instructions import Instruction
from instructedit_jax.tasks.neighbours import Neighbours
from instructedit_jax.tasks.record import Conversation, Record

_TRIES = 4  # at a wording that the edit was not made from
_WHOLE = 1 << 30  # more tokens than any answer has
# (prompt, target, most target tokens) -> tokens; may raise a TooLongError.
Score = Callable[[str, str, int], Scored]


class Kind(enum.IntEnum):
  """What a query's scored tokens are for."""

  KEEP = 0  # out of scope: the model's distribution must stay
  EDIT = 1  # in scope: the target must become likely
  AVOID = 2  # in scope: these replies must become unlikely


@dataclasses.dataclass(frozen=True)
class EpisodeConfig:
  """How many queries of each sort, and how long.

  Attributes:
    paraphrases: in-scope prompts in other words, besides the bare prompt; of
      opinions, other questions about the topic.
    openings: yet other such prompts, with only the beginning of the answer
      scored: there it is that an edit misses other words.
    opening_tokens: that many tokens.
    own_locality: out-of-scope prompts of the record itself.
    near_locality: made-up prompts about other facts of the same subject.
    same_relation: the edited prompt with another subject in it.
    other_locality: prompts of other records, which an edit must not touch.
    continuations: texts that go on after the new answer, as the unedited model
      would: an answer is given once.
    scoped: share of episodes whose instruction says how far the edit reaches,
      see `scoped`.
    instructed: probability that there is an in-scope query (and, apart, an
      out-of-scope one) with an instruction in front, drawn as the edit's own
      is; the beginning of the answer is scored.
    variants: different sets of queries a record has; a later visit repeats
      one, whose prefix states are known. 0: every visit draws afresh.
    target_tokens: answer tokens an edit may have; longer answers are cut.
    reply_tokens: scored tokens of a reply of the other sentiment.
    locality_tokens: answer tokens scored of an out-of-scope prompt.
  """

  paraphrases: int = 1
  openings: int = 2
  opening_tokens: int = 3
  own_locality: int = 2
  near_locality: int = 2
  same_relation: int = 1
  other_locality: int = 1
  continuations: int = 1
  scoped: float = 0.0
  instructed: float = 0.25
  variants: int = 3
  target_tokens: int = 20
  reply_tokens: int = 10
  locality_tokens: int = 4

  def __post_init__(self):
    names = [field.name for field in dataclasses.fields(self)]
    least = {name: int(name.endswith("_tokens")) for name in names}
    require_least(self, "config.episode.", **least)


@dataclasses.dataclass(frozen=True)
class Episode:
  """Token sequences of one episode, most important queries first.

  Attributes:
    edit: the request's prompts with its target; their loss gradient gives the
      factors.
    instruction: what conditions the editor.
    told: whether the editor may see the instruction.
    queries: (kind, sequence) pairs.
    unheard, seed: of `conditioner.heard`, the tokens of the instruction that
      the editor does not get.
  """

  edit: tuple[Scored, ...]
  instruction: Instruction
  told: bool
  queries: tuple[tuple[Kind, Scored], ...]
  unheard: float = 0.0
  seed: int = 0


class EpisodeMaker:
  """Turns records into episodes.

  Args:
    config: sizes and probabilities.
    editor: says which prompts an edit is made from.
    score: tokenises a prompt with its target.
    others: records whose prompts serve as out-of-scope queries.
    pools: the instruction descriptions by task.
    split: which descriptions to draw from.
  """

  def __init__(
    self,
    config: EpisodeConfig,
    editor: EditorConfig,
    score: Score,
    others: Sequence[Record],
    pools: instructions.Pools = instructions.POOLS,
    split: instructions.Split = "seen",
  ):
    self.config, self._editor = config, editor
    self._score = score
    self._others = others
    self._neighbours = Neighbours(others)
    self._pools = pools
    self._split = split

  def __call__(self, record: Record, rng: np.random.Generator) -> Episode:
    """Draws one episode for `record`; its own prompt must not be too long.

    Other queries that the model's context cannot hold are left out.
    """
    return self.about(record, self.instruction(record, rng), rng)

  def instruction(
    self, record: Record, rng: np.random.Generator
  ) -> Instruction:
    """Draws one of the descriptions of the record's task."""
    return instructions.draw(rng, record, self._split, self._pools)

  def about(
    self, record: Record, own: Instruction, rng: np.random.Generator
  ) -> Episode:
    """Draws the rest of an episode whose instruction is `own`."""
    # Instruction dropout: an editor must do without one, too.
    told = rng.random() >= self._editor.conditioner.dropout
    views = self._editor.views(own if told else None, record.prompt)
    edit = tuple(self._scored(prompt, record.target) for prompt in views)
    chance = rng
    if self.config.variants:
      variant = int(rng.integers(self.config.variants))
      chance = np.random.default_rng([zlib.crc32(record.id.encode()), variant])
    bare, *others = self._in_scope(record, chance, views)
    # Long as they are, instructed questions come next to first: at the end of
    # a row they would be left out, in-scope ones nearly always.
    queries = (
      bare,
      *self._instructed(record, rng),
      *others,
      *self._out_of_scope(record, chance),
    )
    unheard = self._editor.conditioner.unheard * rng.random()
    return Episode(edit, own, told, queries, unheard, int(rng.integers(2**31)))

  def _instructed(
    self, record: Record, rng: np.random.Generator
  ) -> list[tuple[Kind, Scored]]:
    """Sometimes questions that carry another description of the same task."""
    queries: list[tuple[Kind, Scored]] = []
    if rng.random() < self.config.instructed:
      asked = self.instruction(record, rng).apply(record.prompt)
      limit = self.config.opening_tokens
      queries += self._query(Kind.EDIT, asked, record.target, limit)
    if rng.random() < self.config.instructed:
      query = self.instruction(record, rng)
      prompt, answer = self._elsewhere(record, rng)
      if record.locality:
        probe = drawing.one(rng, record.locality)
        prompt, answer = probe.prompt, probe.answers[0]
      limit = self.config.locality_tokens
      asked = query.apply(prompt)
      queries += self._query(Kind.KEEP, asked, answer, limit)
    return queries

  def _query(
    self, kind: Kind, prompt: str, answer: str, limit: int
  ) -> list[tuple[Kind, Scored]]:
    """One query; none where it is too long for the model."""
    try:
      return [(kind, self._score(prompt, answer, limit))]
    except TooLongError:
      return []

  def _scored(self, prompt: str, target: str) -> Scored:
    return self._score(prompt, target, self.config.target_tokens)

  def _in_scope(
    self, record: Record, rng: np.random.Generator, views: Sequence[str]
  ) -> list[tuple[Kind, Scored]]:
    """The target at its own prompt and at others, then what to avoid."""
    config = self.config
    queries = [(Kind.EDIT, self._scored(record.prompt, record.target))]
    lengths = [config.target_tokens] * config.paraphrases
    lengths += [config.opening_tokens] * config.openings
    for length in lengths:
      prompt = self._paraphrase(record, rng)
      for _ in range(_TRIES):
        if prompt not in views:
          break
        # What the edit was made from is easy: it teaches nothing of others.
        prompt = self._paraphrase(record, rng)
      queries += self._query(Kind.EDIT, prompt, record.target, length)
    if record.conversation is not None and record.conversation.opposite:
      queries += self._opposite(record.conversation, rng)
    return queries

  def _paraphrase(self, record: Record, rng: np.random.Generator) -> str:
    """A prompt with the same answer: the record's own, or one by rule."""
    if record.conversation is not None:
      return drawing.one(rng, record.conversation.questions)
    own = list(record.rephrases)
    own += [
      probe.prompt
      for probe in record.portability
      # The same question about the subject by another of its names.
      if probe.kind == "Subject_Aliasing" and record.target in probe.answers
    ]
    if own and rng.random() < 0.4:
      return drawing.one(rng, own)
    return augment.rephrase(record.prompt, record.subject, rng)

  def _opposite(
    self, talk: Conversation, rng: np.random.Generator
  ) -> list[tuple[Kind, Scored]]:
    """A reply of the other sentiment to one of the questions."""
    prompt = drawing.one(rng, talk.questions)
    reply = drawing.one(rng, talk.opposite)
    return self._query(Kind.AVOID, prompt, reply, self.config.reply_tokens)

  def _out_of_scope(
    self, record: Record, rng: np.random.Generator
  ) -> list[tuple[Kind, Scored]]:
    chosen = []
    own = record.locality
    if own:
      count = min(self.config.own_locality, len(own))
      for i in rng.choice(len(own), count, replace=False):
        probe = own[int(i)]
        chosen.append((probe.prompt, drawing.one(rng, probe.answers)))
    near = self.config.own_locality - len(chosen) + self.config.near_locality
    # The hardest come first: what does not fit a row is left out at its end.
    for draw, count in (
      (self._near, near),
      (self._same_relation, self.config.same_relation),
      (self._elsewhere, self.config.other_locality),
    ):
      chosen += [draw(record, rng) for _ in range(count)]
    limit = self.config.locality_tokens
    queries: list[tuple[Kind, Scored]] = []
    for _ in range(self.config.continuations):
      queries += self._after(record, rng)
    for prompt, answer in chosen:
      queries += self._query(Kind.KEEP, prompt, answer, limit)
    return queries

  def _near(self, record: Record, rng: np.random.Generator) -> tuple[str, str]:
    """Another fact of the same subject, or the own one with an exception."""
    pair = None
    if rng.random() < 0.25:
      pair = self._neighbours.excepted(record, rng)
    pair = pair or self._neighbours.same_subject(record, rng)
    return pair or self._elsewhere(record, rng)

  def _same_relation(
    self, record: Record, rng: np.random.Generator
  ) -> tuple[str, str]:
    """The edited relation of another subject."""
    pair = self._neighbours.same_relation(record, rng)
    return pair or self._elsewhere(record, rng)

  def _after(
    self, record: Record, rng: np.random.Generator
  ) -> list[tuple[Kind, Scored]]:
    """What the unedited model would say once the new answer is given."""
    # After a question as after a cloze.
    prompt = record.prompt
    if rng.random() < 0.5:
      prompt = self._paraphrase(record, rng)
    text = record.target + augment.continuation(rng)
    if rng.random() < 0.3:
      text = f"{record.target}. {' '.join(self._elsewhere(record, rng))}"
    try:
      # The whole answer, though elsewhere it may be cut: none of it is to stay.
      answer = len(self._score(prompt, record.target, _WHOLE).labels)
    except TooLongError:
      return []
    most = answer + self.config.locality_tokens
    return [
      (kind, Scored(whole.tokens, whole.labels[answer:]))
      for kind, whole in self._query(Kind.KEEP, prompt, text, most)
    ]

  def _elsewhere(
    self, record: Record, rng: np.random.Generator
  ) -> tuple[str, str]:
    """A prompt of another record, as it is or in other words."""
    for _ in range(8):
      other = drawing.one(rng, self._others)
      if other.subject != record.subject:
        break
    if other.locality and rng.random() < 0.5:
      probe = drawing.one(rng, other.locality)
      return probe.prompt, probe.answers[0]
    answer = other.ground_truth[0] if other.ground_truth else other.target
    if other.conversation is None and rng.random() < 0.25:
      return augment.rephrase(other.prompt, other.subject, rng), answer
    return other.prompt, answer
