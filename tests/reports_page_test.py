"""The page: whole, inert whatever the data says, and small."""

import base64
import gzip
import hashlib
import html.parser
import importlib.resources
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from instructedit_jax.errors import UserError
from instructedit_jax.reports import Settings, build
from instructedit_jax.reports.browsing import masks
from tests import results_folder

ROOT = pathlib.Path(__file__).resolve().parents[1]
PIXEL = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYPhfDwAChAGA"
  "8xZ0/gAAAABJRU5ErkJggg=="
)
VOID = {"meta", "input", "img", "br", "link", "circle", "line"}


class Page(html.parser.HTMLParser):
  """Elements of a page, in order, and whether all of them are closed."""

  def __init__(self, text: str):
    super().__init__()
    self.found: list[tuple[str, dict[str, str | None]]] = []
    self.texts: dict[str, list[str]] = {}
    self.open: list[str] = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    # Only what HTML lets one leave open may differ.
    while self.open and self.open[-1] != tag:
      assert self.open.pop() in ("option", "p"), tag
    self.open.pop()

  def handle_data(self, data):
    if self.open:
      self.texts.setdefault(self.open[-1], []).append(data)


def _page(tmp_path, **changes) -> str:
  values = {"folders": (tmp_path / "a",), "out": tmp_path / "out"}
  build(Settings(**values | changes))
  return (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def _data(text: str) -> dict:
  raw = re.search(r'<script id="data"[^>]*>([^<]*)</script>', text)
  assert raw is not None
  return json.loads(gzip.decompress(base64.b64decode(raw[1])))


def _spoil(record):
  for field in ("prompt", "target", "id", "instruction"):
    record[field] += results_folder.NASTY
  for item in record["items"]:
    for field in ("prompt", "before", "after", "kind"):
      item[field] += results_folder.NASTY + "\ud800"
    item["scores"]["em"] = float("nan")


def test_nothing_in_the_data_becomes_markup(tmp_path):
  nasty = results_folder.NASTY
  results_folder.write(
    tmp_path / "a",
    editors=(nasty, "mend"),
    tasks=(nasty,),
    options={"instruction": nasty},
    model=nasty,
    change=_spoil,
  )
  text = _page(tmp_path, title=nasty, command=nasty)
  page = Page(text)
  assert page.open == []
  scripts = [attrs for tag, attrs in page.found if tag == "script"]
  assert scripts == [{"id": "data", "type": "application/octet-stream"}, {}]
  assert not [1 for tag, attrs in page.found if tag == "b" and attrs]
  assert not [a for _, attrs in page.found for a in attrs if a[:2] == "on"]
  assert "alert('x')</script>" not in text
  assert "".join(page.texts["h1"]) == nasty
  (row, *_) = _data(text)["rows"]
  assert row[8][0][5] is None  # NaN is nothing


def test_the_page_asks_nobody_for_anything(tmp_path):
  folder = results_folder.write(tmp_path / "a")
  (folder / "figure.png").write_bytes(PIXEL)
  page = Page(text := _page(tmp_path))
  for _, attrs in page.found:
    for name in ("src", "href", "action", "data", "poster", "srcset"):
      assert (attrs.get(name) or "#").startswith(("#", "data:image/png;base64"))
  assert "@import" not in text
  assert "url(" not in text
  policy = next(a for _, a in page.found if "http-equiv" in a)["content"]
  assert policy.startswith("default-src 'none'; img-src data:;")
  for tag, at in (("style", 0), ("script", 1)):
    body = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", text, re.DOTALL)[at]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest())
    assert f"{tag}-src 'sha256-{digest.decode()}'" in policy
  # Inline styles would be forbidden by it.
  assert not [1 for _, attrs in page.found if "style" in attrs]
  assert any(tag == "img" for tag, _ in page.found)


def test_controls_have_names_and_headings_their_order(tmp_path):
  results_folder.write(tmp_path / "a")
  text = _page(tmp_path)
  page = Page(text)
  assert ("html", {"lang": "en"}) in page.found
  assert [t for t, _ in page.found if t in ("h1", "h2")][:2] == ["h1", "h2"]
  for tag in ("select", "input"):
    for number in re.finditer(f"<{tag}", text):
      assert "<label" in text[: number.start()].rpartition("</label>")[2]
  for tag, attrs in page.found:
    if tag in ("svg", "nav") or attrs.get("role") == "region":
      assert attrs["aria-label"]
  ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
  assert len(ids) == len(set(ids))
  links = {a["href"][1:] for t, a in page.found if t == "a"}
  assert links <= set(ids)


def test_records_are_packed_without_loss(tmp_path):
  folder = results_folder.write(
    tmp_path / "a", queries=("bare", "instructed"), count=5
  )
  text = (folder / "records.jsonl").read_text()
  prompt = "Task: zsre\\nDescription: d\\nInput: What is zsre 0?"
  text = text.replace('"What is zsre 0?", "answers"', f'"{prompt}", "answers"')
  (folder / "records.jsonl").write_text(text)
  data = _data(_page(tmp_path))
  assert len(data["rows"]) == 2 * 2 * 2 * 5

  def read(place):
    return data["strings"][place]

  lines = [json.loads(line) for line in text.splitlines()]
  of_first = [r for r in data["rows"] if read(r[1]) == "zsre/test/0"]
  assert len(of_first) == 4
  row, line = of_first[0], lines[0]
  assert read(data["runs"][row[5]][0]) == line["editor"] == "mend"
  assert read(row[3]) == line["target"]
  assert row[7] == masks(line["scores"])
  item, whole = row[8][0], line["items"][0]
  question = data["questions"][item[0]]
  assert read(question[2]) == "Task: zsre\nDescription: d\nInput: "
  assert read(question[3]) == "What is zsre 0?"
  assert [read(a) for a in question[4]] == whole["answers"]
  assert [read(item[1]), read(item[2])] == [whole["before"], whole["after"]]
  assert item[3:5] == [whole["log_p_before"], whole["log_p_after"]]
  assert item[5] == whole["scores"]["em"]
  assert read(item[10]) == whole["free_after"]


def test_masks_tell_failed_from_not_asked():
  assert masks({}) == [0, 0, 0, 0]
  scores = {"reliability_em": 100.0, "locality_em": 50.0, "portability_em": 0.0}
  assert masks(scores) == [0b1100, 0b1101, 0, 0]
  assert masks({"generalization_free": 0.0, "locality_free": None}) == [
    *(0, 0, 0b10, 0b10)
  ]


def test_failed_evaluations_are_listed(tmp_path):
  folder = results_folder.write(tmp_path / "a")
  raw = json.loads((folder / "protocol.json").read_text())
  raw["chunks"][0]["failed"] = [{"id": "zsre/test/9", "reason": "too long"}]
  (folder / "protocol.json").write_text(json.dumps(raw))
  built = build(Settings((folder,), tmp_path / "out"))
  assert any("1 evaluations of records failed" in n for n in built.notes)
  data = _data((tmp_path / "out" / "report.html").read_text())
  ((_, id_, _, _, reason),) = data["failed"]
  assert data["strings"][id_] == "zsre/test/9"
  assert data["strings"][reason] == "too long"


def test_the_same_results_make_the_same_page(tmp_path):
  results_folder.write(tmp_path / "a")
  assert _page(tmp_path) == _page(tmp_path)


def test_pictures_must_be_pictures(tmp_path):
  folder = results_folder.write(tmp_path / "a")
  (folder / "broken.png").write_bytes(b"no picture")
  (tmp_path / "p.png").write_bytes(PIXEL)
  built = build(
    Settings((folder,), tmp_path / "out", pictures=(tmp_path / "p.png",))
  )
  assert any("broken.png" in note for note in built.notes)
  text = (tmp_path / "out" / "report.html").read_text()
  assert text.count("<img") == 1
  with pytest.raises(UserError, match="is no PNG"):
    build(Settings((folder,), "o", pictures=(folder / "broken.png",)))
  with pytest.raises(UserError, match="cannot be read"):
    build(Settings((folder,), "o", pictures=("none.png",)))


def test_files_of_the_page_are_installed():
  project = (ROOT / "pyproject.toml").read_text()
  place = importlib.resources.files("instructedit_jax.reports")
  for suffix in ("html", "css", "js"):
    assert f'"*.{suffix}"' in project
    assert (place / f"page.{suffix}").is_file()


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_the_script_parses():
  path = ROOT / "instructedit_jax" / "reports" / "page.js"
  subprocess.run(["node", "--check", str(path)], check=True)


def _command(tmp_path, *arguments):
  return subprocess.run(
    [sys.executable, "-m", "instructedit_jax.report", *arguments],
    cwd=ROOT,
    env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_command(tmp_path):
  a = results_folder.write(tmp_path / "a")
  b = results_folder.write(tmp_path / "b", seed=1, options={"free": False})
  out = tmp_path / "out"
  result = _command(
    tmp_path, str(a), "--title", "Both", str(b), "--separate", f"--out={out}"
  )
  assert result.returncode == 0, result.stderr
  assert "warning: options.free differs: true in a; false in b" in result.stderr
  names = ("report.csv", "report.html", "report.md", "report.tex")
  assert sorted(p.name for p in out.iterdir()) == list(names)
  assert (out / "report.md").read_text().startswith("# Both\n")
  assert "mend (b)" in (out / "report.csv").read_text()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--out=o"], "name a folder"),
    (["results"], "--out=FOLDER is missing"),
    (["nowhere", "--out=o"], "no such folder"),
    (["nowhere", "--out=o", "--rename=x"], "write it as OLD=NEW"),
  ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, message):
  result = _command(tmp_path, *arguments)
  assert result.returncode == 2
  assert "Traceback" not in result.stderr
  assert message in result.stderr.splitlines()[-1]
