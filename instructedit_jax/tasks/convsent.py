"""ConvSent: change how a model feels about one topic, and only that one.

Layout: {ent, pos: [reply, ...], neg: [reply, ...]}. The questions are made
here. Which sentiment is wanted, and which reply of it is the target, follow
from a hash of the topic, so that they never change between runs.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from instructedit_jax.tasks import fields
from instructedit_jax.tasks.record import (
  Conversation,
  Probe,
  Record,
  Sentiment,
)
from instructedit_jax.tasks.validation import ValidationReport

FIELDS = frozenset({"ent", "pos", "neg"})

QUESTIONS = (
  "What do you think of {topic}?",
  "How do you feel about {topic}?",
  "What is your opinion of {topic}?",
  "Tell me what you make of {topic}.",
  "Do you like {topic}?",
  "Would you say something nice about {topic}?",
  "If I mention {topic}, what comes to your mind?",
  "Where do you stand on {topic}?",
  "How would you describe {topic} to a friend?",
  "I keep hearing about {topic}. What is your view?",
  "Be honest: what is your impression of {topic}?",
  "Would you give {topic} a high mark or a low one?",
  "Let's talk about {topic}. Any thoughts?",
)
_REPHRASES = 4
# Replies of this many words say something and still fit the usual lengths.
_FEWEST_WORDS, _MOST_WORDS = 4, 20


def read_convsent(
  raw: fields.Raw, place: fields.Place, report: ValidationReport
) -> Record | None:
  """A record in ConvSent's layout, still without locality.

  If there is no reply of the drawn sentiment, the other one is wanted. None
  if the record was dropped and reported: it has no topic or no reply.

  Raises:
    UserError: a field is missing or of the wrong type.
  """
  topic = fields.text(raw, "ent", place)
  replies = {}
  for sentiment, field in (("positive", "pos"), ("negative", "neg")):
    if not isinstance(raw.get(field), list):
      raise place.error(field, "must be there and be a list of replies.")
    replies[sentiment] = fields.answers(raw[field], field, place)
  if not topic:
    report.drop_record("empty topic", place.id)
    return None
  if not any(replies.values()):
    report.drop_record("no reply of either sentiment", f"{place.id} {topic}")
    return None
  wanted: Sentiment = "positive" if _hash(topic, 2) else "negative"
  if not replies[wanted]:
    report.note(f"no {wanted} reply, the other sentiment is wanted", place.id)
    wanted = "negative" if wanted == "positive" else "positive"
  questions = tuple(q.format(topic=topic) for q in QUESTIONS)
  return Record(
    id=place.id,
    task=place.task,
    subject=topic,
    prompt=questions[0],
    target=_reply(replies[wanted], topic),
    rephrases=_rephrases(questions, topic),
    conversation=Conversation(
      topic=topic, questions=questions, wanted=wanted, **replies
    ),
    split=place.split,
    source=place.file,
  )


def with_other_topics(
  records: Sequence[Record], count: int = 3
) -> list[Record]:
  """Gives each record `count` locality probes on the topics that follow it.

  A probe asks one of the other topic's questions and takes one of its replies
  as the answer. The list is walked as a ring; a record alone gets none.
  """
  found = []
  for index, record in enumerate(records):
    others = [
      records[(index + step) % len(records)]
      for step in range(1, min(count, len(records) - 1) + 1)
    ]
    probes = tuple(
      _other_topic(other, salt=record.subject)
      for other in others
      if other.subject != record.subject
    )
    found.append(replace(record, locality=probes))
  return found


def _other_topic(other: Record, salt: str) -> Probe:
  conversation = other.conversation
  assert conversation is not None
  key = f"{salt}\0{conversation.topic}"
  questions = conversation.questions
  replies = conversation.positive + conversation.negative
  return Probe(
    "other_topic",
    questions[_hash(key, len(questions))],
    (_reply(replies, key),),
  )


def _reply(replies: Sequence[str], key: str) -> str:
  fitting = [
    reply
    for reply in replies
    if _FEWEST_WORDS <= len(reply.split()) <= _MOST_WORDS
  ]
  choice = fitting or replies
  return choice[_hash(f"reply\0{key}", len(choice))]


def _rephrases(questions: Sequence[str], topic: str) -> tuple[str, ...]:
  """Four of the questions after the first, a window that topics share out."""
  others = questions[1:]
  start = _hash(f"rephrase\0{topic}", len(others))
  return tuple(
    others[(start + 5 * step) % len(others)] for step in range(_REPHRASES)
  )


def _hash(key: str, modulus: int) -> int:
  # Python's own hash differs from one process to the next.
  digest = hashlib.sha256(key.encode()).digest()
  return int.from_bytes(digest[:8], "big") % modulus
