from pathlib import Path

import pytest

from arl_lightning.data.sources.layout import read_csv, require
from arl_lightning.errors import UserError


def test_a_quote_that_is_not_closed_is_named_by_its_line(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text('name,remark\na,"two\nlines"\nb,"open\nc,\n')
    with pytest.raises(UserError, match=r"table\.csv: .*\(line 4: a quote that is not closed\); download it again"):
        read_csv(table, ["name"], "the authors")


def test_what_must_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "table.csv").write_text("name\na\n")
    for closed in (tmp_path, tmp_path / "images"):
        monkeypatch.setattr("os.access", lambda path, mode, closed=closed: path != closed)
        with pytest.raises(UserError, match=rf"^{closed}: must not be read; grant access to it"):
            require(tmp_path, ["images"], "a set", "the authors")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"table\.csv: must not be read; grant access to it"):
        read_csv(tmp_path / "table.csv", ["name"], "the authors")
