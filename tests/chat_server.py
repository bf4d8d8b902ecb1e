"""A chat endpoint on this machine that answers as it is told."""

import contextlib
import http.server
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

KEY = "sk-very-secret-0123456789"


class Answers:
  """What the server says next, and what it was asked.

  Attributes:
    queue: called with the request's body, in turn; the last one stays.
    asked: (headers, body) of every request.
    url: where it listens.
  """

  def __init__(self, *queue: Callable[["Handler", dict], Any]):
    self.queue = list(queue)
    self.asked: list[tuple[dict[str, str], dict]] = []
    self.url = ""


class Handler(http.server.BaseHTTPRequestHandler):
  """One request."""

  answers: Answers

  def do_POST(self) -> None:
    length = int(self.headers["Content-Length"])
    body = json.loads(self.rfile.read(length))
    answers = self.answers
    answers.asked.append((dict(self.headers), {"path": self.path, **body}))
    step = answers.queue.pop(0) if len(answers.queue) > 1 else answers.queue[0]
    # A client that gave up is what some tests are about.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
      step(self, body)

  def do_GET(self) -> None:
    self.answers.asked.append((dict(self.headers), {"path": "GET"}))
    self.send(b"{}")

  def send(self, raw: bytes, status: int = 200, **headers: str) -> None:
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(raw)))
    self.end_headers()
    self.wfile.write(raw)

  def log_message(self, *_: Any) -> None:
    pass


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def server_bind(self) -> None:
    # Without the look-up of its name, which may take long.
    socketserver.TCPServer.server_bind(self)
    self.server_name, self.server_port = self.server_address[:2]


@contextlib.contextmanager
def serve(*queue: Callable[[Handler, dict], Any]) -> Iterator[Answers]:
  """A server for the time of a test."""
  answers = Answers(*queue)
  handler = type("Bound", (Handler,), {"answers": answers})
  server = _Server(("127.0.0.1", 0), handler)
  answers.url = f"http://127.0.0.1:{server.server_port}/v1"
  thread = threading.Thread(target=server.serve_forever, args=(0.02,))
  thread.start()
  try:
    yield answers
  finally:
    server.shutdown()
    thread.join()
    server.server_close()


def says(content: Any, **usage: int):
  """An answer of the protocol."""

  def step(handler: Handler, body: dict) -> None:
    del body
    answer = {"choices": [{"message": {"content": content}}]}
    if usage:
      answer["usage"] = usage
    handler.send(json.dumps(answer).encode())

  return step


def descriptions(*texts: str, **usage: int):
  """An answer with these descriptions."""
  return says(json.dumps({"descriptions": texts}), **usage)


def raw(data: bytes, status: int = 200, **headers: str):
  """Any bytes, any status."""
  return lambda handler, _: handler.send(data, status, **headers)


def late(seconds: float):
  """No answer in time."""
  return lambda handler, _: time.sleep(seconds)


def drip(seconds: float):
  """A byte now and then, for ever so long."""

  def step(handler: Handler, _: dict) -> None:
    handler.send_response(200)
    handler.end_headers()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
      handler.wfile.write(b" ")
      handler.wfile.flush()
      time.sleep(0.05)

  return step
