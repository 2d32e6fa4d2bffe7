"""A report that is interrupted: its points are kept file by file, and the same command goes on after them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import codec, read, task
from rdcodec.codecs.evaluation.report import FILES
from rdcodec.codecs.evaluation.task import Page
from rdcodec.codecs.evaluation.unfinished import RECORD

pytest.importorskip("bjontegaard")


@pytest.fixture
def measured(run) -> list[str]:
    """Names of the files that are read to be coded, in order; the third ends the command while it is ``stopped``."""
    return []


@pytest.fixture
def toy(run, measured) -> Callable[..., None]:
    """Sets the toy's task, with changes, so that it tells what it reads, and stops at a file."""

    def change(stop: str = "", **changes: object) -> None:
        def told(path: Path) -> np.ndarray:
            if path.name == stop:
                raise KeyboardInterrupt
            measured.append(path.name)
            return read(path)

        run.task.TASK = task(read=told, **changes)

    return change


@pytest.fixture
def interrupted(run, toy, measured, tmp_path) -> Path:
    """A report that ended before its last file."""
    toy(stop="few.txt")
    code, output = run("numbers")
    assert code == 130 and "what is done is kept in" in output and "the same command goes on" in output
    assert measured == ["a.txt", "b.txt"]
    measured.clear()
    toy()
    return tmp_path / "report"


def rows(report: Path) -> list[dict[str, str]]:
    with (report / "points.csv").open() as file:
        return list(csv.DictReader(file))


def test_points_are_there_file_by_file_and_the_same_command_goes_on(run, toy, interrupted, measured, tmp_path):
    kept = rows(interrupted)
    assert {path.name for path in interrupted.iterdir()} == {"points.csv", RECORD}
    assert [row["file"] for row in kept] == ["a.txt"] * 8 + ["b.txt"] * 8
    code, output = run("numbers")
    assert code == 0 and "goes on after 2 of 3 lists of numbers; --fresh starts anew" in output, output
    assert measured == ["few.txt"] and {path.name for path in interrupted.iterdir()} == set(FILES)
    assert rows(interrupted)[:16] == kept
    assert run("numbers", "-o", "whole")[0] == 0
    for name in ("means.csv", "bd_rate.csv"):
        went_on, whole = (
            [{k: v for k, v in row.items() if not k.endswith("_s")} for row in csv.DictReader((folder / name).open())]
            for folder in (interrupted, tmp_path / "whole")
        )
        assert went_on == whole
    assert "report/points.csv exists; --force overwrites it" in run("numbers")[1]


def test_a_report_may_be_started_anew(run, interrupted, measured):
    code, output = run("numbers", "--fresh")
    assert code == 0 and measured == ["a.txt", "b.txt", "few.txt"] and "goes on" not in output


@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (["--qualities", "1,2,4,8"], {}, "settings"), (["--references", "same"], {}, "codecs"),
        (["--runs", "2"], {}, "runs"), (["--model", "other"], {}, "model"), (["--device", "cpu"], {}, "device"),
        ([], {"ours": lambda model, device: replace(codec(0), weights="ab")}, "weights"),
        ([], {"metrics": task().metrics[:1]}, "metrics"),
    ],
)  # fmt: skip
def test_points_of_other_settings_are_not_mixed_in(run, toy, interrupted, measured, arguments, changes, named):
    toy(**changes)
    code, output = run("numbers", *arguments)
    assert code == 0 and f"starts anew: what was interrupted had other {named}" in output, output
    assert list(dict.fromkeys(measured)) == ["a.txt", "b.txt", "few.txt"]


def test_a_file_that_changed_is_coded_again_and_one_that_is_gone_counts_no_more(run, interrupted, measured, numbers):
    before = (numbers / "b.txt").stat()
    (numbers / "b.txt").write_text(" ".join(reversed((numbers / "b.txt").read_text().split())))
    os.utime(numbers / "b.txt", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    (numbers / "a.txt").unlink()
    (numbers / "more.txt").write_text("1 2 3")
    code, output = run("numbers")
    assert code == 0 and measured == ["b.txt", "few.txt", "more.txt"], output
    assert {row["file"] for row in rows(interrupted)} == {"b.txt", "few.txt", "more.txt"}


def test_files_of_one_name_in_another_folder_are_others(run, interrupted, measured, numbers):
    for path in numbers.iterdir():
        stat = path.stat()
        (numbers.parent / "twins").mkdir(exist_ok=True)
        twin = numbers.parent / "twins" / path.name
        twin.write_text(path.read_text())
        os.utime(twin, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    code, output = run("twins")
    assert code == 0 and "had other folder" in output and len(measured) == 3


def test_points_without_a_record_are_not_gone_on_with(run, interrupted, measured):
    (interrupted / RECORD).unlink()
    code, output = run("numbers")
    assert code == 1 and "report/points.csv exists; --force overwrites it" in output
    assert run("numbers", "--force")[0] == 0 and len(measured) == 3


def test_a_page_that_fails_costs_no_points(run, toy, measured, tmp_path):
    def fail(*arguments: object) -> None:
        raise OSError("the page")

    toy(page=Page(name="page.html", write=fail))
    assert run("numbers")[0] == 1
    measured.clear()
    toy(page=Page(name="page.html", write=lambda path, *arguments: path.write_text("page")))
    assert run("numbers")[0] == 0 and not measured
    assert {path.name for path in (tmp_path / "report").iterdir()} == {*FILES, "page.html"}


def test_of_an_earlier_report_nothing_stays_beside_new_points(run, toy, tmp_path):
    toy()
    assert run("numbers")[0] == 0
    toy(stop="b.txt")
    assert run("numbers", "--force")[0] == 130
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"points.csv", RECORD}


def test_each_file_has_a_line_where_there_is_no_terminal(run, numbers):
    (numbers / "bad.txt").write_text("no numbers")
    code, output = run("numbers")
    lines = [line for line in output.splitlines() if " done, " in line]
    assert code == 0 and "bad.txt: no numbers; left out" in output
    assert [line.partition(",")[0] for line in lines] == [
        "codec: a.txt: 1 of 4 done", "codec: b.txt: 2 of 4 done", "codec: few.txt: 3 of 3 done"
    ]  # fmt: skip
