"""`nntrain report` as a person runs it: files in, one page out, or one line that says why not."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nntrain.cli import nntrain
from nntrain.cli.reading import EXIT_CODES
from tests.log.samples import scripted, written


def called(*arguments: str) -> Result:
    return CliRunner().invoke(nntrain, ["report", *arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "one.jsonl", scripted(0))
    written(tmp_path / "two.jsonl", scripted(1, config={"lr": 0.01}))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_logs_become_one_page(tmp_path: Path) -> None:
    done = called("one.jsonl", "two.jsonl", "-o", "runs.html", "--title", "lr <0.1>")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "runs.html").read_text(encoding="utf-8")
    assert "<title>lr &lt;0.1&gt;</title>" in page
    assert done.output == f"report: runs.html (2 runs, {len(page.encode()) / 1e6:.1f} MB)\n"
    assert names(tmp_path) == ["one.jsonl", "runs.html", "two.jsonl"]


def test_the_default_is_report_html(tmp_path: Path) -> None:
    assert called("one.jsonl").output.startswith("report: report.html (1 run, ")
    assert "report.html" in names(tmp_path)


def test_a_file_given_twice_is_one_run(tmp_path: Path) -> None:
    assert "(1 run, " in called("one.jsonl", "./one.jsonl", "one.jsonl").output
    assert "3 runs" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "link.jsonl").symlink_to("one.jsonl")
    called("one.jsonl")
    once = (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "two.jsonl").unlink()
    called("one.jsonl", ".", "link.jsonl")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == once


def test_a_page_that_was_there_is_replaced_and_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "old.html").write_text("old")
    (tmp_path / "old.html").chmod(0o640)
    (tmp_path / "link.html").symlink_to("old.html")
    assert called("one.jsonl", "-o", "link.html").exit_code == 0
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "old.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert stat.S_IMODE((tmp_path / "old.html").stat().st_mode) == 0o640


def test_the_page_has_the_mode_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert called("one.jsonl").exit_code == 0
    assert (tmp_path / "report.html").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.sweep
def test_to_the_standard_output_goes_the_page_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nntrain", "report", "-", "-o", "-"],
        stdin=(tmp_path / "one.jsonl").open("rb"),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"<!DOCTYPE html>")
    assert done.stdout.endswith(b"</html>\n")


def test_a_torn_last_line_is_skipped_and_told(tmp_path: Path) -> None:
    with (tmp_path / "one.jsonl").open("a") as file:
        file.write('{"event":"epoch_fin')
    done = called("one.jsonl")
    assert done.exit_code == 0
    assert "torn; its 19 bytes are skipped" in done.stderr


def bad(tmp_path: Path) -> dict[str, tuple[Sequence[str], int, str]]:
    (tmp_path / "text.txt").write_text("hello\nworld\n")
    (tmp_path / "none.jsonl").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\n")
    (tmp_path / "folder").mkdir()
    os.link(tmp_path / "one.jsonl", tmp_path / "hard.jsonl")
    return {
        "no log": (["one.jsonl", "text.txt"], EXIT_CODES["foreign"], "text.txt, line 1 (byte offset 0)"),
        "empty": (["none.jsonl"], EXIT_CODES["empty"], "it has no line"),
        "binary": (["picture.png"], EXIT_CODES["binary"], "picture.png"),
        "not there": (["gone.jsonl"], EXIT_CODES["unreadable"], "No such file or directory"),
        "an input": (["one.jsonl", "-o", "./one.jsonl"], 2, "./one.jsonl is one of the logs; give another path"),
        "an input by another name": (["one.jsonl", "-o", "hard.jsonl"], 2, "hard.jsonl is one of the logs"),
        "a folder": (["one.jsonl", "-o", "folder"], 2, "folder is a folder; give the path of a file"),
        "no folder": (["one.jsonl", "-o", "not/there.html"], 2, "there is no folder not"),
        "no file": ([], 2, "Missing argument 'FILE|FOLDER...'"),
    }


def test_bad_input_says_so_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("before")
    for name, (arguments, code, said) in bad(tmp_path).items():
        before = names(tmp_path)
        done = called(*arguments)
        assert (name, done.exit_code) == (name, code), done.output
        assert said in done.stderr
        assert names(tmp_path) == before
        assert (tmp_path / "report.html").read_text() == "before"


def test_a_full_disk_leaves_the_page_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "report.html").write_text("before")
    done = called("one.jsonl")
    assert done.exit_code == 10
    assert "report.html cannot be written: No space left on device" in done.stderr
    assert (tmp_path / "report.html").read_text() == "before"
    assert names(tmp_path) == ["one.jsonl", "report.html", "two.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_device_is_written_to_and_not_replaced() -> None:
    done = called("one.jsonl", "-o", "/dev/full")
    assert done.exit_code == 10
    assert "/dev/full cannot be written: No space left on device" in done.stderr
    assert Path("/dev/full").is_char_device()


# Names and folders


def listed(folder: Path) -> list[str]:
    content = (folder / "report.html").read_text(encoding="utf-8")
    return re.findall(r'<label class="run"[^>]*><input[^>]*><svg.*?</svg><span>(.*?)</span>', content)


def test_runs_are_called_after_their_files(tmp_path: Path) -> None:
    assert called("one.jsonl", "two.jsonl").exit_code == 0
    assert listed(tmp_path) == ["one", "two"]


def test_files_of_one_name_are_told_apart_by_their_folders_and_runs_of_one_file_by_numbers(tmp_path: Path) -> None:
    for at, name in enumerate(("sweep/a/run.jsonl", "sweep/b/run.jsonl"), 2):
        (tmp_path / name).parent.mkdir(parents=True)
        written(tmp_path / name, scripted(at))
    written(tmp_path / "both.jsonl", [*scripted(4), *scripted(5)])
    assert called("sweep", "both.jsonl").exit_code == 0
    assert listed(tmp_path) == ["a/run", "b/run", "both (1)", "both (2)"]


def test_a_run_that_goes_on_in_a_second_file_is_one_run_called_after_the_first(tmp_path: Path) -> None:
    lines = scripted(6)
    written(tmp_path / "before.jsonl", lines[:8])
    written(tmp_path / "resumed.jsonl", lines[8:])
    assert "(1 run, " in called("before.jsonl", "resumed.jsonl").output
    assert listed(tmp_path) == ["before"]


def test_names_are_those_given_and_are_no_markup(tmp_path: Path) -> None:
    assert called("one.jsonl", "two.jsonl", "--name", "<b>slow</b>", "--name", "fast").exit_code == 0
    assert listed(tmp_path) == ["&lt;b&gt;slow&lt;/b&gt;", "fast"]


def test_a_folder_is_all_logs_below_it_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "runs" / "deep").mkdir(parents=True)
    written(tmp_path / "runs" / "deep" / "three.jsonl", scripted(2))
    written(tmp_path / "runs" / "four.jsonl", scripted(3))
    (tmp_path / "runs" / "samples.jsonl").write_text('{"text": "of another program"}\n')
    (tmp_path / "runs" / "empty.jsonl").touch()
    done = called("runs")
    assert (done.exit_code, listed(tmp_path)) == (0, ["three", "four"]), done.output


def test_a_folder_without_logs_and_too_few_names_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = called("nothing")
    assert (done.exit_code, names(tmp_path)) == (4, ["nothing", "one.jsonl", "two.jsonl"])
    assert done.stderr == "Error: there is no log (*.jsonl) in the folder nothing or below it.\n"
    done = called("gone.jsonl", "two.jsonl", "--name", "only")
    assert done.exit_code == 2
    assert "there are 1 names and 2 logs; give a name for each log" in done.stderr


def test_a_page_in_the_folder_of_logs_may_not_replace_one(tmp_path: Path) -> None:
    done = called(".", "-o", "one.jsonl")
    assert done.exit_code == 2
    assert "one.jsonl is one of the logs" in done.stderr
