"""Where results are kept: option, environment, default; and what cannot be a results database."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratoscope.errors import StoreError
from stratoscope.store.location import locate


def test_the_option_comes_before_the_environment_and_that_before_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATOSCOPE_DB", str(tmp_path / "environment.db"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert locate(tmp_path / "option.db").file == tmp_path / "option.db"
    assert locate().file == tmp_path / "environment.db"
    monkeypatch.setenv("STRATOSCOPE_DB", "")
    assert locate().file == tmp_path / "data/stratoscope/results.db"
    monkeypatch.delenv("STRATOSCOPE_DB")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate().file == tmp_path / ".local/share/stratoscope/results.db"


def test_a_path_and_its_sqlite_url_are_the_same_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("results.db") == locate("sqlite:///results.db") == locate(f"sqlite:///{tmp_path}/results.db")


def test_artifacts_lie_beside_an_sqlite_file_and_in_the_data_folder_for_postgresql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate(tmp_path / "my.runs.db").artifacts == tmp_path / "my.runs.artifacts"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert locate("postgresql://host/name").artifacts == tmp_path / "stratoscope/artifacts"
    monkeypatch.setenv("STRATOSCOPE_ARTIFACTS", str(tmp_path / "elsewhere"))
    assert locate("postgresql://host/name").artifacts == tmp_path / "elsewhere"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_reached_through_psycopg_3_and_its_password_is_not_shown(scheme: str) -> None:
    location = locate(f"{scheme}://me:secret@host:5433/name")
    assert location.url.drivername == "postgresql+psycopg"
    assert location.url.password == "secret"
    assert str(location) == "postgresql+psycopg://me:***@host:5433/name"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "cannot be kept in 'mysql'"),
        ("sqlite://", "names a file"),
        ("sqlite:///:memory:", "names a file"),
        ("sqlite:///x.db?mode=ro", "names a file"),
        ("://x", "cannot be read"),
        ("postgresql://me:secret@host:port/name", "cannot be read"),
    ],
)
def test_other_databases_and_unreadable_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        locate(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint
