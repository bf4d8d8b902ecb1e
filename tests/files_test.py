"""Files appear whole or not at all."""

import pytest

from instructedit_jax import files
from instructedit_jax.errors import UserError


def test_a_file_appears_when_the_block_ends(tmp_path):
  target = tmp_path / "deep" / "a.txt"
  with files.atomic_write(target) as path:
    path.write_text("one")
    assert not target.exists()
  assert target.read_text() == "one"
  assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
  target = tmp_path / "a.txt"
  target.write_text("old")

  def write_half() -> None:
    with files.atomic_write(target) as path:
      path.write_text("ne")
      raise RuntimeError("half")

  with pytest.raises(RuntimeError, match="half"):
    write_half()
  assert target.read_text() == "old"
  assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
  ("failure", "message"),
  [
    (OSError(28, "No space left on device"), "the disk is full"),
    (PermissionError(13, "Permission denied"), "Permission denied"),
    (ValueError("Failed: [os_error_code='5']"), "Failed"),
    (TimeoutError("timed out"), "timed out.*start again"),
  ],
)
def test_disk_failures_become_one_message(tmp_path, failure, message):
  with (
    pytest.raises(UserError, match=message) as error,
    files.atomic_write(tmp_path / "a"),
  ):
    raise failure
  assert str(tmp_path / "a") in str(error.value)
  assert not list(tmp_path.iterdir())


def test_other_errors_pass_unchanged(tmp_path):
  with (
    pytest.raises(ValueError, match="shape") as error,
    files.disk_errors(tmp_path),
  ):
    raise ValueError("shape")
  assert not isinstance(error.value, UserError)


def test_what_cannot_fit_is_refused(tmp_path):
  files.require_space(tmp_path, 1)
  with pytest.raises(UserError, match="MB needed"):
    files.require_space(tmp_path, 1 << 60)
