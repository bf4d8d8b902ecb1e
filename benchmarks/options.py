"""Flags that the benchmarks share; each has its own meaning everywhere."""

from absl import flags

OUT = flags.DEFINE_string("out", None, "File for the rows, JSON.")
QUICK = flags.DEFINE_boolean(
  "quick", False, "Few repetitions of little work: to see that it runs."
)
MODEL = flags.DEFINE_string("model", "smollm2-135m", "Base model.")
SUFFIX = flags.DEFINE_integer("suffix", 3, "Editable blocks.")
DATA = flags.DEFINE_string("data", "embedded", "As config.data.")
TASKS = flags.DEFINE_list("tasks", None, "Tasks; by default the command's own.")
RANK = flags.DEFINE_integer("rank", 1920, "Of the published editor.")
BATCH = flags.DEFINE_integer("batch", 8, "Episodes a step.")
REPEATS = flags.DEFINE_integer(
  "repeats", None, "Measured runs of each program; by default as it needs."
)
WORDS = flags.DEFINE_float(
  "words", 1.0, "Lengthens all shapes: 5 for byte tokenizers."
)


def repeats(usual: int, quick: int = 2) -> int:
  """Measured runs: what was asked for, else the usual number or a few."""
  if REPEATS.value is not None:
    return REPEATS.value
  return quick if QUICK.value else usual


def tasks(*usual: str) -> list[str]:
  """The tasks asked for, else the usual ones."""
  return sorted(TASKS.value if TASKS.value else usual)


def tokens(count: int) -> int:
  """A length in tokens, for the tokenizer at hand."""
  return int(count * WORDS.value)
