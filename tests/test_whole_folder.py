"""A folder that is written whole or not at all."""

import stat

import pytest

from kdtf.files import whole_folder

NAMES = frozenset({"a.txt", "b.txt"})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(directory, text="new"):
    with whole_folder(directory, NAMES) as staging:
        (staging / "a.txt").write_text(text)


def test_a_new_folder_appears_with_its_parents(tmp_path):
    target = tmp_path / "deep" / "out"
    write(target)
    assert names(target) == ["a.txt"]
    assert names(target.parent) == ["out"]
    plain = tmp_path / "plain"
    plain.mkdir()
    mode = stat.S_IMODE(target.stat().st_mode)
    assert mode == stat.S_IMODE(plain.stat().st_mode)


def test_an_earlier_export_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "b.txt").write_text("of before")
    write(target)
    assert names(target) == ["a.txt"]
    assert names(tmp_path) == ["out"]


def test_after_an_error_the_older_folder_is_untouched(tmp_path):
    target = tmp_path / "out"
    write(target, "old")
    with pytest.raises(RuntimeError, match="half-way"):
        with whole_folder(target, NAMES) as staging:
            (staging / "a.txt").write_text("new")
            raise RuntimeError("half-way")
    assert (target / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("is_late", [False, True])
def test_a_folder_with_other_files_is_refused(tmp_path, is_late):
    target = tmp_path / "out"
    target.mkdir()
    other = target / "thesis.txt"
    if not is_late:
        other.write_text("mine")
    with pytest.raises(ValueError, match=r"`directory` .*thesis\.txt"):
        with whole_folder(target, NAMES):
            other.write_text("mine")
    assert other.read_text() == "mine"
    assert names(tmp_path) == ["out"]


def test_a_file_in_its_place_is_refused(tmp_path):
    target = tmp_path / "out"
    target.write_text("a file")
    with pytest.raises(ValueError, match="which is a file"):
        write(target)
    assert target.read_text() == "a file"


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    write(link)
    assert link.is_symlink()
    assert names(tmp_path / "real") == ["a.txt"]
