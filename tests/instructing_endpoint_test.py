"""The chat endpoint, on good days and on bad ones."""

import email.utils
import json
import time

import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.instructing.endpoint import (
  Endpoint,
  EndpointConfig,
  _retry_after,
)
from instructedit_jax.instructing.writers import MalformedReply, Message, Reply
from tests.chat_server import KEY, drip, late, raw, says, serve

ASKED = [Message("system", "s"), Message("user", "u")]
QUOTA = json.dumps({"error": {"code": "insufficient_quota"}}).encode()


def _endpoint(answers, **changes) -> tuple[Endpoint, list[float]]:
  values = {"retries": 2, "timeout": 5.0, "key": KEY} | changes
  waits: list[float] = []
  config = EndpointConfig(answers.url, "writer", **values)
  return Endpoint(config, sleep=waits.append), waits


def _ask(answers, **changes):
  endpoint, waits = _endpoint(answers, **changes)
  calls = []
  reply = endpoint.write(ASKED, lambda: calls.append(1))
  assert len(calls) == len(answers.asked)
  return reply, waits


def test_the_protocol_is_spoken():
  with serve(says("hello", prompt_tokens=7, completion_tokens=2)) as answers:
    reply, waits = _ask(answers, temperature=0.5, max_tokens=None)
  assert reply == Reply("hello", 7, 2)
  ((headers, body),) = answers.asked
  assert headers["Authorization"] == f"Bearer {KEY}"
  assert body == {
    "path": "/v1/chat/completions",
    "model": "writer",
    "messages": [
      {"role": "system", "content": "s"},
      {"role": "user", "content": "u"},
    ],
    "temperature": 0.5,
  }
  assert waits == []


def test_a_server_without_keys_gets_none():
  with serve(says("hello")) as answers:
    reply, _ = _ask(answers, key="")
  assert "Authorization" not in answers.asked[0][0]
  assert reply.prompt_tokens is None


@pytest.mark.parametrize(
  ("failure", "wait"),
  [
    (raw(b"slow down", 429, Retry_After="7"), (7, 7)),
    (raw(b"slow down", 429, Retry_After="soon"), (0.5, 1)),
    (raw(b"", 429), (0.5, 1)),
    (raw(b"oops", 500), (0.5, 1)),
    (raw(b"oops", 503, Retry_After="0"), (0, 0)),
    (raw(b"", 408), (0.5, 1)),
  ],
)
def test_what_may_pass_is_tried_again(failure, wait):
  with serve(failure, says("hello")) as answers:
    reply, waits = _ask(answers)
  assert reply.text == "hello"
  assert len(answers.asked) == 2
  assert wait[0] <= waits[0] <= wait[1]


def test_waits_grow_and_end_in_a_plain_error():
  with serve(raw(f"no, {KEY}!".encode(), 500)) as answers:
    endpoint, waits = _endpoint(answers, retries=3)
    with pytest.raises(UserError, match="no answer after 4 requests") as caught:
      endpoint.write(ASKED, lambda: None)
  assert len(answers.asked) == 4
  assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2 <= waits[2] <= 4
  assert "status 500: 'no, [key]!'" in str(caught.value)


@pytest.mark.parametrize("slow", [late(5.0), drip(5.0)])
def test_a_slow_server_is_given_up_in_time(slow):
  with serve(slow, says("hello")) as answers:
    start = time.monotonic()
    reply, waits = _ask(answers, timeout=0.2)
    assert time.monotonic() - start < 5.0
  assert reply.text == "hello"
  assert len(waits) == 1


def test_no_server_at_all():
  with serve(says("")) as answers:
    url = answers.url
  endpoint = Endpoint(
    EndpointConfig(url, "w", retries=1), sleep=lambda seconds: None
  )
  with pytest.raises(UserError, match="ConnectionRefusedError"):
    endpoint.write(ASKED, lambda: None)


def test_a_reply_cut_short_is_tried_again():
  def cut(handler, _):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')

  with serve(cut, says("hello")) as answers:
    reply, _ = _ask(answers)
  assert reply.text == "hello"


@pytest.mark.parametrize(
  ("failure", "message"),
  [
    (raw(f"bad key {KEY}".encode(), 401), r"bad key \[key\].*Check the key"),
    (raw(b"no model", 404), "usually ends with /v1"),
    (raw(b"what?", 400), "status 400: 'what\\?'"),
    (raw(QUOTA, 429), "insufficient_quota"),
    (raw(b"later", 429, Retry_After="3600"), "asks to wait for 3600 seconds"),
  ],
)
def test_what_cannot_pass_ends_at_once(failure, message):
  with serve(failure) as answers:
    endpoint, waits = _endpoint(answers)
    with pytest.raises(UserError, match=message) as caught:
      endpoint.write(ASKED, lambda: None)
  assert len(answers.asked) == 1
  assert waits == []
  assert KEY not in str(caught.value)


def test_the_key_does_not_follow_a_redirection():
  with (
    serve(says("stolen")) as other,
    serve(raw(b"", 302, Location=f"{other.url}/x")) as answers,
  ):
    endpoint, _ = _endpoint(answers)
    with pytest.raises(UserError, match="The server redirects"):
      endpoint.write(ASKED, lambda: None)
    assert other.asked == []


@pytest.mark.parametrize(
  "reply",
  [
    raw(b"<html>welcome"),
    raw(b"\xff\xfe"),
    raw(b"[]"),
    raw(b'{"choices": []}'),
    raw(b'{"choices": [{"message": null}]}'),
    raw(b"[" * 100_000),
    raw(b""),
    says(None),
    says("  "),
    says(["a"]),
  ],
)
def test_answers_of_another_form_are_named(reply):
  with serve(reply) as answers:
    endpoint, _ = _endpoint(answers)
    with pytest.raises(MalformedReply):
      endpoint.write(ASKED, lambda: None)


def test_strange_counts_are_no_counts():
  odd = {"prompt_tokens": -1, "completion_tokens": "many"}
  with serve(says("hello", **odd)) as answers:
    reply, _ = _ask(answers)
  assert (reply.prompt_tokens, reply.reply_tokens) == (None, None)


def test_the_key_is_nowhere_to_be_seen(caplog):
  config = EndpointConfig("http://example.invalid/v1", "m", key=KEY)
  assert KEY not in repr(config)
  endpoint = Endpoint(config)
  assert KEY not in repr(endpoint) + endpoint.name
  assert "unencrypted" in caplog.text
  with serve(says(f"I know {KEY}")) as answers:
    reply, _ = _ask(answers)
  assert reply.text == "I know [key]"
  # What stands for no key is no secret, and is part of other words.
  with serve(says("Correct one fact, none other.")) as answers:
    assert _ask(answers, key="none")[0].text == "Correct one fact, none other."


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"base_url": "localhost:8000"}, "must be like"),
    ({"base_url": f"https://me:{KEY}@host/v1"}, "leave out the user"),
    ({"base_url": f"https://host/v1?key={KEY}"}, "leave out the user"),
    ({"model": ""}, "--model=NAME"),
    ({"base_url": "http://[::1:8000/v1"}, "must be like"),
    ({"base_url": "http://host:80a/v1"}, "must be like"),
    ({"base_url": "http://host:99999/v1"}, "must be like"),
    ({"key": "two words"}, "blank"),
    ({"key": "\u201ccurly\u201d"}, "curly"),
    ({"timeout": 0}, "timeout"),
  ],
)
def test_bad_settings_are_told(changes, message):
  values = {"base_url": "https://host/v1", "model": "m"} | changes
  with pytest.raises(UserError, match=message) as caught:
    EndpointConfig(**values)
  assert KEY not in str(caught.value)


def test_retry_after_is_seconds_or_a_date():
  assert _retry_after("3") == 3
  assert _retry_after("-3") == 0
  assert _retry_after(None) is None
  assert _retry_after("nan") is None
  then = email.utils.formatdate(time.time() + 60, usegmt=True)
  assert 50 < (_retry_after(then) or 0) <= 60
