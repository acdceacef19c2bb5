"""What is not there skips where there is no folder at all, and fails where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import real_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(real_files, "SHARED", tmp_path / "shared")
    monkeypatch.setattr(real_files, "_NAMED", None)
    return tmp_path / "shared"


@pytest.mark.usefixtures("absent")
def test_without_a_folder_a_test_is_skipped() -> None:
    with pytest.raises(pytest.skip.Exception, match="MIAOTUI_SHARED names no folder"):
        real_files.real("models", "x")


def test_what_a_folder_lacks_fails(absent: Path) -> None:
    (absent / "models").mkdir(parents=True)
    assert real_files.real("models") == absent / "models"
    with pytest.raises(pytest.fail.Exception, match="models/x is not there"):
        real_files.real("models", "x")


@pytest.mark.usefixtures("absent")
def test_a_folder_that_was_named_and_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_files, "_NAMED", "somewhere")
    with pytest.raises(pytest.fail.Exception, match="is not there"):
        real_files.real()
