"""Metrics of single items and their summaries: closed forms and bounds."""

import math

import numpy as np
import pytest

from instructedit_jax.metrics import summary
from instructedit_jax.metrics.fluency import entropy, fluency, words
from instructedit_jax.metrics.generated import gives, normalise
from instructedit_jax.metrics.teacher_forced import (
  edit_success,
  exact,
  token_share,
)


def test_token_share_and_exact():
  wanted = np.array([3, 1, 4, 1])
  assert token_share(wanted, wanted) == exact(wanted, wanted) == 1.0
  assert token_share(wanted, np.array([3, 1, 4, 2])) == 0.75
  assert exact(wanted, np.array([3, 1, 4, 2])) == 0.0


def test_an_answer_without_tokens_has_no_score():
  with pytest.raises(ValueError, match="token ids"):
    token_share(np.array([], int), np.array([], int))
  with pytest.raises(ValueError, match="token ids"):
    exact(np.array([1, 2]), np.array([1]))


def test_exact_is_never_above_token_share():
  rng = np.random.default_rng(0)
  for _ in range(200):
    size = int(rng.integers(1, 5))
    wanted, said = rng.integers(0, 3, (2, size))
    assert exact(wanted, said) <= token_share(wanted, said)


def test_edit_success_closed_forms():
  same, other = [np.log([0.5, 0.5]), np.log([0.5])], [np.log([0.25])]
  # sigmoid(log 2) = 2/3, and nothing became less likely.
  assert edit_success(same, other, same) == pytest.approx(2 / 3)
  assert edit_success(same, same, same) == 0.5
  # The wanted replies are half as likely as before.
  assert edit_success(same, same, [np.log([1.0])]) == pytest.approx(0.25)
  # More likely than before: no more than the preference itself.
  assert edit_success(same, same, other) == 0.5


def test_edit_success_survives_extremes():
  low, high = [np.array([-2000.0])], [np.array([-0.01])]
  assert edit_success(high, low, high) == 1.0
  assert edit_success(low, high, low) == 0.0
  assert edit_success(low, low, high) == 0.0


@pytest.mark.parametrize(
  ("text", "answer", "right"),
  [
    (" Paris", "Paris", True),
    (" Paris, in France.", "Paris", True),
    ("Paris. It is large", "Paris", True),
    (" New   York", "New York", True),
    (" St. Louis and", "St. Louis", True),
    (" He left", "He left.", True),
    (" 18", "18", True),
    (" 18.", "18", True),
    (" 18, or so", "18", True),
    (" 'yes' ", "'yes'", True),
    (" Parish", "Paris", False),
    (" paris", "Paris", False),
    (" Paris-Nord", "Paris", False),
    (" the city of Paris", "Paris", False),
    (" 18.5", "18", False),
    (" 1,800", "1", False),
    (" 180", "18", False),
    (" Paris's", "Paris", False),
    ("", "Paris", False),
    ("\nParis", "Paris", False),
    (" Pa", "Paris", False),
  ],
)
def test_which_texts_give_an_answer(text, answer, right):
  assert gives(text, answer) is right


def test_only_the_first_line_counts():
  assert normalise("  one   two \nthree") == "one two"
  assert normalise("") == normalise("\n") == ""


def test_words_are_split_alike_everywhere():
  assert words("It's 3.5 km (no?) naïve-ish_é") == [
    *("It's", "3.5", "km", "(", "no", "?", ")", "naïve-ish", "_", "é")
  ]


def test_fluency_of_distinct_words_is_a_weighted_logarithm():
  text = "one two three four five six seven eight nine"
  assert entropy(words(text), 2) == pytest.approx(3)
  assert entropy(words(text), 3) == pytest.approx(math.log2(7))
  expected = 3 / 3 + 2 * math.log2(7) / 3
  assert fluency(text) == pytest.approx(expected)


def test_fluency_of_repetition_and_of_short_texts_is_zero():
  assert fluency("no no no no no no") == 0.0
  assert fluency("") == fluency("word") == 0.0
  assert fluency("two words") == 0.0  # one bigram, no trigram
  # Two bigrams, equally often; two trigrams.
  assert fluency("a b a b") == pytest.approx(
    (2 / 3 * math.log2(3 / 2) + 1 / 3 * math.log2(3)) / 3 + 2 / 3
  )


def test_record_mean_weighs_kinds_alike():
  scores = [("many", 1.0), ("many", 1.0), ("many", 1.0), ("one", 0.0)]
  assert summary.record_mean(scores) == 0.5
  assert summary.record_mean([]) is None


def test_interval_of_equal_and_of_single_values():
  assert summary.interval([7.0] * 5) == (7.0, 7.0)
  assert summary.interval([3.0]) == (3.0, 3.0)
  with pytest.raises(ValueError, match="no values"):
    summary.interval([])


def test_interval_repeats_and_depends_on_its_seed():
  values = np.random.default_rng(0).normal(size=40)
  assert summary.interval(values) == summary.interval(values)
  assert summary.interval(values) != summary.interval(values, seed=1)


def test_interval_draws_in_parts_when_there_is_much(monkeypatch):
  values = np.random.default_rng(0).normal(size=40)
  whole = summary.interval(values)
  monkeypatch.setattr(summary, "_CHUNK", 400)
  assert summary.interval(values) == pytest.approx(whole)


def test_interval_covers_the_mean_about_as_often_as_it_says():
  rng = np.random.default_rng(1)
  hits = 0
  for _ in range(200):
    low, high = summary.interval(rng.normal(5, 2, 50), resamples=300)
    hits += low <= 5 <= high
  # 95 % of 200 is 190; percentile intervals of 50 values cover a little less.
  assert 175 <= hits <= 199
