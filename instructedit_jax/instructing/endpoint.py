"""A chat endpoint that speaks the OpenAI protocol, and its bad days.

The key is sent in one header and nowhere else: it is cut out of everything the
server says before anyone sees it, redirections are refused (they would carry
the header to another host), and neither `repr` nor an error shows it.
"""

import dataclasses
import datetime
import email.utils
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from instructedit_jax.errors import UserError
from instructedit_jax.instructing.writers import MalformedReply, Message, Reply

_TRANSIENT = (408, 409, 425, 429)  # and 5xx
_REPLY_BYTES = 8 << 20
_SHOWN = 200  # characters of a reply in a message
_FIRST_WAIT = 1.0
_LOCAL = ("localhost", "127.0.0.1", "::1")
# Shorter keys are placeholders for servers that want none ("x", "test"), and
# would be found all over an answer.
_SECRET = 8


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
  """Where to ask and how patiently.

  Attributes:
    base_url: up to and without "/chat/completions".
    model: name of the model there.
    key: sent as a bearer token; "" for servers that want none.
    temperature, max_tokens: sent unless None.
    timeout: seconds for a whole answer.
    retries: further requests after one that failed for the moment.
    longest_wait: seconds; a server that asks for more ends the run.
  """

  base_url: str
  model: str
  key: str = dataclasses.field(default="", repr=False)
  temperature: float | None = 1.0
  max_tokens: int | None = 2000
  timeout: float = 120.0
  retries: int = 5
  longest_wait: float = 120.0

  def __post_init__(self):
    try:
      parts = urllib.parse.urlsplit(self.base_url)
      valid = parts.scheme in ("http", "https") and bool(parts.hostname)
      _ = parts.port  # read so that a wrong one is found now
    except ValueError:
      valid = False
    if not valid:
      raise UserError(
        f"base URL {public(self.base_url)!r}: must be like"
        " https://host/v1 or http://localhost:8000/v1"
      )
    if parts.username or parts.password or parts.query:
      raise UserError(
        f"base URL {public(self.base_url)!r}: leave out the user, password and"
        " query; give the key by --api_key or its environment variable"
      )
    if not self.model:
      raise UserError("name the endpoint's model: --model=NAME")
    if any(not "!" <= c <= "~" for c in self.key):
      raise UserError(
        "the key holds a blank, a line break or a letter that no key has, such"
        " as a curly quotation mark; check how it was copied"
      )
    if self.timeout <= 0 or self.retries < 0:
      raise UserError("timeout must be above 0 and retries at least 0")


class _Refused(urllib.request.HTTPRedirectHandler):
  """Turns a redirection into an error."""

  def redirect_request(self, req, fp, code, msg, headers, newurl):
    del req, fp, code, msg, headers, newurl


@dataclasses.dataclass
class Endpoint:
  """A writer behind an address.

  Attributes:
    config: where and how.
    sleep: waits for so many seconds.
    rng: spreads the waits of several clients.
  """

  config: EndpointConfig
  sleep: Callable[[float], Any] = time.sleep
  rng: random.Random = dataclasses.field(default_factory=random.Random)

  def __post_init__(self):
    parts = urllib.parse.urlsplit(self.config.base_url)
    plain = parts.scheme == "http" and parts.hostname not in _LOCAL
    if self.config.key and plain:
      logging.warning(
        "%s: the key is sent unencrypted; use https where there is one",
        public(self.config.base_url),
      )
    self._opener = urllib.request.build_opener(_Refused)

  @property
  def name(self) -> str:
    """The model and the host."""
    return f"{self.config.model} at {public(self.config.base_url)}"

  def write(
    self, messages: Sequence[Message], before_call: Callable[[], None]
  ) -> Reply:
    """One answer; failures that may pass are retried, ever more slowly.

    Raises:
      MalformedReply: an answer that is no JSON of the protocol.
      UserError: the server refuses, or did not recover in time.
    """
    body: dict[str, Any] = {
      "model": self.config.model,
      "messages": [dataclasses.asdict(message) for message in messages],
    }
    for field in ("temperature", "max_tokens"):
      value = getattr(self.config, field)
      if value is not None:
        body[field] = value
    for attempt in range(self.config.retries + 1):
      before_call()
      reason, wait = "", None
      try:
        return self._reply(self._post(body))
      except urllib.error.HTTPError as error:
        with error:
          reason, wait = self._refusal(error)
      except (OSError, http.client.HTTPException) as error:
        reason = self._failure(error)
      if attempt == self.config.retries:
        break
      self._wait(attempt, reason, wait)
    raise UserError(
      f"{self.name}: no answer after {self.config.retries + 1} requests; the"
      f" last one: {reason}. The same command goes on from here."
    )

  def _post(self, body: Mapping[str, Any]) -> str:
    """The raw answer, without the key."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(
      self.config.base_url.rstrip("/") + "/chat/completions",
      data=json.dumps(body).encode(),
      headers=headers,
      method="POST",
    )
    if self.config.key:
      request.add_unredirected_header(
        "Authorization", f"Bearer {self.config.key}"
      )
    start = time.monotonic()
    with self._opener.open(request, timeout=self.config.timeout) as response:
      parts, size = [], 0
      # A server that sends a byte now and then never times out by itself.
      while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _REPLY_BYTES:
          raise MalformedReply(f"more than {_REPLY_BYTES} bytes")
        if time.monotonic() - start > self.config.timeout:
          raise TimeoutError
      if response.length:  # what the header promised and did not come
        raise http.client.IncompleteRead(b"", response.length)
    return self._clean(b"".join(parts))

  def _reply(self, raw: str) -> Reply:
    try:
      answer = json.loads(raw)
      text = answer["choices"][0]["message"]["content"]
      usage = answer.get("usage") or {}
    except (
      *(ValueError, KeyError, IndexError, TypeError),
      *(AttributeError, RecursionError),
    ):
      raise MalformedReply(beginning(raw)) from None
    if not isinstance(text, str) or not text.strip():
      raise MalformedReply(beginning(raw))

    def count(name: str) -> int | None:
      value = usage.get(name) if isinstance(usage, dict) else None
      if isinstance(value, bool) or not isinstance(value, int):
        return None
      return value if value >= 0 else None

    return Reply(text, count("prompt_tokens"), count("completion_tokens"))

  def _refusal(self, error: urllib.error.HTTPError) -> tuple[str, float | None]:
    """Why, and for how long to wait; raises what waiting cannot mend."""
    try:
      said = self._clean(error.read(_REPLY_BYTES))
    except (OSError, http.client.HTTPException):
      said = ""
    reason = f"status {error.code}: {beginning(said)}"
    passing = error.code in _TRANSIENT or error.code >= 500
    # Out of credit is told with the status of "slow down", but never passes.
    if not passing or "insufficient_quota" in said:
      hint = {
        401: " Check the key.",
        403: " Check the key and what it may do.",
        404: " Check the base URL, which usually ends with /v1, and the model.",
      }.get(error.code, "")
      if 300 <= error.code < 400:
        hint = " The server redirects; give the final address as base URL."
      raise UserError(f"{self.name} refuses: {reason}.{hint}") from None
    return reason, _retry_after(error.headers.get("Retry-After"))

  def _failure(self, error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
      return f"no answer within {self.config.timeout:g} seconds"
    return self._clean(f"{type(cause).__name__}: {cause}".encode())

  def _wait(self, attempt: int, reason: str, asked: float | None) -> None:
    if asked is not None and asked > self.config.longest_wait:
      raise UserError(
        f"{self.name} asks to wait for {asked:.0f} seconds ({reason}). Run the"
        " same command again later; it goes on from here."
      )
    longest = min(_FIRST_WAIT * 2**attempt, self.config.longest_wait)
    seconds = asked if asked is not None else longest * self.rng.uniform(0.5, 1)
    logging.warning("%s; next request in %.1f s", reason, seconds)
    self.sleep(seconds)

  def _clean(self, raw: bytes) -> str:
    """Text without the key: error messages like to repeat it."""
    text = raw.decode("utf-8", "replace")
    key = self.config.key
    if len(key) >= _SECRET:
      for form in (key, json.dumps(key)[1:-1], urllib.parse.quote(key, "")):
        text = text.replace(form, "[key]")
    return text


def beginning(text: str) -> str:
  """The beginning of a reply, on one line, for an error message."""
  text = " ".join(text.split())
  text = "".join(c if c.isprintable() else "·" for c in text)
  return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def public(url: str) -> str:
  """An address without what may be secret in it."""
  try:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
  except ValueError:
    return "[malformed address]"
  return f"{parts.scheme}://{host}{port}{parts.path}"


def _retry_after(value: str | None) -> float | None:
  """Seconds, from a number of them or from a date."""
  if not value:
    return None
  try:
    return max(float(value), 0.0) if float(value) < 1e9 else None
  except ValueError:
    pass
  try:
    when = email.utils.parsedate_to_datetime(value)
  except ValueError:
    return None
  if when.tzinfo is None:
    when = when.replace(tzinfo=datetime.UTC)
  now = datetime.datetime.now(datetime.UTC)
  return max((when - now).total_seconds(), 0.0)
