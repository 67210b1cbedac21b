"""`kdtf reference`: every public name is on a page."""

import importlib
import re

import pytest

from kdtf.cli import main
from kdtf.cli.reference import ROOMS


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("reference")
    # Warnings are errors, ours and pdoc's.
    assert main(["reference", "--out", str(folder)]) == 0
    return folder


def page_of(pages, room):
    return (pages / f"{room.replace('.', '/')}.html").read_text()


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_its_page(pages, room):
    text = page_of(pages, room)
    shown = set(re.findall(r'id="([\w.]+)"', text))
    names = set(importlib.import_module(room).__all__)
    # The verb is a room, too: a page of its own.
    missing = names - shown - ({"search"} if room == "kdtf" else set())
    assert missing == set()


def test_the_front_page_leads_to_all_others(pages):
    assert "./kdtf.html" in (pages / "index.html").read_text()
    text = page_of(pages, "kdtf")
    for room in ROOMS[1:]:
        assert f'href="{room.replace(".", "/")}.html"' in text
    assert (pages / "search.js").stat().st_size > 1000


def test_docstrings_become_lists_and_code(pages):
    text = page_of(pages, "kdtf.pruning")
    prune = text[text.index('<section id="prune">') :]
    prune = prune[: prune.index("</section>")]
    assert re.search(r"<li><strong>sparsity:</strong>", prune)
    assert '<span class="gp">&gt;&gt;&gt; </span>' in prune
    assert "Args:" not in prune


def test_a_file_is_no_folder(tmp_path, capsys):
    pytest.importorskip("pdoc")
    (tmp_path / "file").write_text("")
    assert main(["reference", "--out", str(tmp_path / "file")]) == 2
    assert "`--out` must be a folder" in capsys.readouterr().err


def test_what_is_not_installed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pdoc", None)
    assert main(["reference", "--out", str(tmp_path)]) == 2
    assert "pip install 'kdtf[docs]'" in capsys.readouterr().err
