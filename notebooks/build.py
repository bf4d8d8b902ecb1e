"""Makes the notebook beside a script in percent format.

python notebooks/build.py

A cell starts with "# %%", "# %% [markdown]" or '# %% tags=["NAME"]'; the lines
of a text cell are comments. The same script always gives the same bytes.
"""

import json
import pathlib
import re
from typing import Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
_METADATA = {
  "accelerator": "TPU",
  "colab": {"provenance": []},
  "kernelspec": {"display_name": "Python 3", "name": "python3"},
  "language_info": {"name": "python"},
}


class Cell(NamedTuple):
  """One cell.

  Attributes:
    text: its source; a text cell's without the comment signs.
    markdown: whether it is text.
    tags: its tags.
  """

  text: str
  markdown: bool = False
  tags: tuple[str, ...] = ()


def cells(script: str) -> list[Cell]:
  """The cells of a script in percent format."""
  found = []
  for part in re.split(r"^# %%", script, flags=re.MULTILINE)[1:]:
    head, _, body = part.partition("\n")
    tags = re.search(r"tags=(\[.*\])", head)
    markdown = "[markdown]" in head
    if markdown:
      body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
    found.append(
      Cell(body.strip(), markdown, tuple(json.loads(tags[1])) if tags else ())
    )
  return found


def notebook(script: str) -> str:
  """The notebook's file for a script in percent format."""
  content: dict[str, Any] = {"cells": [], "metadata": _METADATA}
  for number, cell in enumerate(cells(script)):
    kind = "markdown" if cell.markdown else "code"
    made: dict[str, Any] = {
      "cell_type": kind,
      "id": f"cell-{number:02}",
      "metadata": {"tags": list(cell.tags)} if cell.tags else {},
      "source": cell.text.splitlines(keepends=True),
    }
    if not cell.markdown:
      made |= {"execution_count": None, "outputs": []}
    content["cells"].append(made)
  content |= {"nbformat": 4, "nbformat_minor": 5}
  return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
  """Writes every notebook anew."""
  for script in sorted(HERE.glob("*.py")):
    if script.name != pathlib.Path(__file__).name:
      made = notebook(script.read_text(encoding="utf-8"))
      script.with_suffix(".ipynb").write_text(made, encoding="utf-8")
      print(script.with_suffix(".ipynb"))


if __name__ == "__main__":
  main()
