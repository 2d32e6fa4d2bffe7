"""A task of a toy signal: coding, timing, plots and the whole report."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from evaluation_cases import STEPS, codec, task
from PIL import Image
from rdcodec import codecs
from rdcodec.codecs.evaluation import report, timing
from rdcodec.codecs.evaluation.bd_rate import bd_rate
from rdcodec.codecs.evaluation.plot import Panel, plot
from rdcodec.codecs.evaluation.points import OURS, curves, read_points, write_points
from rdcodec.codecs.evaluation.report import FILES
from rdcodec.codecs.evaluation.run import chosen, evaluate
from rdcodec.codecs.evaluation.task import Page
from rdcodec.codecs.terminal.console import plain
from rdcodec.entropy_models.errors import InputError

pytest.importorskip("bjontegaard")


def test_every_codec_codes_every_file_at_every_setting(numbers):
    found = evaluate(task(), {OURS: codec(0), "fat": codec(100)}, sorted(numbers.glob("*.txt")))
    assert [(p.file, p.codec, p.setting) for p in found[:9]] == [
        ("a.txt", name, step) for name in (OURS, "fat") for step in STEPS
    ] + [("b.txt", OURS, STEPS[0])]
    first, fat = found[0], found[4]
    assert (first.bytes, first.rate, first.facts) == (5 + 50 * 9, 8 * (5 + 50 * 9) / 50, {"count": 50})
    assert fat.bytes == first.bytes + 100 and first.metrics == {"psnr_db": 100.0, "error_max": 0.0}
    assert all(p.metrics["error_max"] <= p.setting for p in found if p.file != "few.txt")
    assert all(math.isnan(p.metrics["error_max"]) for p in found if p.file == "few.txt")
    assert all(p.encode_s > 0 and p.decode_s > 0 for p in found)


def test_files_of_one_name_in_two_folders_are_told_apart(numbers):
    (numbers / "more").mkdir()
    (numbers / "more" / "a.txt").write_text("1 2 3")
    found = evaluate(task(), {OURS: codec(0)}, [numbers / "a.txt", numbers / "more" / "a.txt"])
    assert list(dict.fromkeys(p.file for p in found)) == ["a.txt", "more/a.txt"]


def test_what_cannot_be_read_or_coded_is_left_out_of_every_mean(numbers):
    (numbers / "bad.txt").write_text("no numbers")
    (numbers / "long.txt").write_text("7 " * 101)
    left: dict[str, str] = {}
    paths = sorted(numbers.glob("*.txt"))
    found = evaluate(task(), {OURS: codec(0)}, paths, left_out=lambda path, error: left.update({path.name: str(error)}))
    assert list(left) == ["bad.txt", "long.txt"] and left["long.txt"] == "more than 100 numbers"
    assert {p.file for p in found} == {"a.txt", "b.txt", "few.txt"}
    with pytest.raises(InputError, match="bad.txt: no numbers"):
        evaluate(task(), {OURS: codec(0)}, paths)
    with pytest.raises(ValueError, match="none of 1 lists of numbers could be coded"):
        evaluate(task(), {OURS: codec(0)}, [numbers / "bad.txt"], left_out=lambda path, error: None)


def test_a_bug_is_not_taken_for_a_signal_that_a_codec_refuses(numbers):
    broken = replace(codec(0), decode=lambda data: np.array([1, 2]).reshape(3))
    with pytest.raises(ValueError, match="cannot reshape"):
        evaluate(task(), {OURS: broken}, [numbers / "a.txt"], left_out=lambda path, error: pytest.fail("left out"))


def test_times_are_medians_of_runs_in_turns(numbers):
    """Each call of the clock takes a second more than the one before: a later run is slower by a known amount."""
    seconds = iter(np.cumsum(np.arange(100.0)).tolist())
    told: list[str] = []
    settings = {OURS: codec(0, (1.0,)), "fat": codec(100, (4.0,))}
    ours, fat = evaluate(task(), settings, [numbers / "a.txt"], runs=3, progress=told.append, clock=lambda: next(seconds))
    assert told == ["a.txt rdcodec 1", "a.txt fat 4"] * 3
    assert (ours.encode_s, ours.decode_s) == (7, 8) and (fat.encode_s, fat.decode_s) == (10, 11)  # the second of three


def test_interleaved_times():
    calls, now = [], [0.0]

    def work(name: str, seconds: list[float]):
        def call() -> None:
            calls.append(name)
            now[0] += seconds.pop(0)

        return call

    tasks = {"a": work("a", [100, 1, 9, 2]), "b": work("b", [100, 5, 4, 6])}
    assert timing.interleaved(tasks, 3, clock=lambda: now[0]) == {"a": 2, "b": 5} and calls == ["a", "b"] * 4
    tasks = {"a": work("a", [0, 1, 9, 2])}
    assert timing.interleaved(tasks, 3, clock=lambda: now[0], figure=min) == {"a": 1}


def test_references_are_checked_by_name():
    checks: list[str] = []
    toy = task(references={"fat": codec(100, checks=checks), "same": codec(0)})
    assert list(chosen(toy, ["fat"])) == ["fat"] and checks == ["checked"]
    with pytest.raises(ValueError, match="no reference 'gif'; there are fat, same"):
        chosen(toy, ["gif"])


def test_the_report_of_a_toy_signal(run, numbers, tmp_path):
    code, output = run("numbers")
    assert code == 0, output
    assert {path.name for path in (tmp_path / "report").iterdir()} == set(FILES)
    assert "Largest error is defined from ten numbers on; without it: few.txt" in output
    assert "BD-rate Largest error" in output and "encode (numbers/s)" in output
    with (tmp_path / "report" / "bd_rate.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert list(row) == ["anchor", "bd_rate_psnr_percent", "bd_rate_largest_error_percent"]
    assert row["anchor"] == "fat" and float(row["bd_rate_psnr_percent"]) < -10 > float(row["bd_rate_largest_error_percent"])
    found = curves(read_points(tmp_path / "report" / "points.csv", task()), task().metrics)
    for metric, column in zip(task().metrics, list(row)[1:], strict=True):
        expected = bd_rate(found[metric.column], "fat", metric)  # few.txt has no largest error, and counts in one of both
        assert float(row[column]) == pytest.approx(expected, abs=0.006)
    assert len(set(row.values())) == 3
    with (tmp_path / "report" / "means.csv").open() as file:
        assert [row["codec"] for row in csv.DictReader(file)] == [OURS] * 4 + ["fat"] * 4
    with (tmp_path / "report" / "points.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 2 * 4
    assert Image.open(tmp_path / "report" / "rate_distortion.png").size[0] > 1000


def test_a_plot_shows_something_of_every_curve_and_says_what_a_metric_leaves_out(numbers, tmp_path, monkeypatch):
    points = evaluate(task(), {OURS: codec(0), "fat": codec(1000)}, sorted(numbers.iterdir()))
    found = curves(points, task().metrics)
    drawn = {}
    monkeypatch.setattr(report, "plot", lambda path, panels, *_, rates, **more: drawn.update(panels=panels, rates=rates))
    starts = {name: min(row.rate for row in found[task().metrics[0].column] if row.codec == name) for name in (OURS, "fat")}
    most = 1.5 * starts[OURS]
    assert most < starts["fat"]
    report.plot_curves(tmp_path / "a.png", task(), found, "title", rates=(0.0, most))
    assert drawn["rates"][1] > starts["fat"] and all(panel.lines["fat"][0] for panel in drawn["panels"])
    assert [", 2 of 3 files" in panel.label for panel in drawn["panels"]] == [False, True]
    report.plot_curves(tmp_path / "a.png", task(), curves(points[:4], task().metrics), "title", rates=(0.0, most))
    assert drawn["rates"] == (0.0, most)


def test_what_a_rate_counts_may_be_less_than_the_file(numbers, tmp_path):
    """The same codec, but for five bytes a file that do not count."""
    toy = task()
    paths = [numbers / "a.txt"]
    whole = evaluate(toy, {OURS: codec(0)}, paths)
    found = evaluate(toy, {OURS: replace(codec(0), counted=lambda data: len(data) - 5)}, paths)
    assert [p.bytes for p in found] == [p.bytes for p in whole] == [p.counted_bytes + 5 for p in found]
    assert all(p.rate == pytest.approx(q.rate - 8 * 5 / 50) for p, q in zip(found, whole, strict=True))
    for points in (found, whole):
        write_points(tmp_path / "points.csv", toy, points)
        read = read_points(tmp_path / "points.csv", toy)
        assert [(p.bytes, p.counted_bytes) for p in read] == [(p.bytes, p.counted_bytes) for p in points]
        assert ("counted_bytes" in (tmp_path / "points.csv").read_text()) == (points is found)


def test_bd_rates_of_a_task_are_over_rates_of_the_reference(run, tmp_path):
    code, output = run("numbers")
    found = curves(read_points(tmp_path / "report" / "points.csv", task()), task().metrics)["psnr_db"]
    fat = [row.rate for row in found if row.codec == "fat"]
    compared = (0.0, (fat[-2] + fat[-1]) / 2)
    run.task.TASK = task(rate=replace(task().rate, compared=compared))
    code, output = run("numbers", "--force")
    with (tmp_path / "report" / "bd_rate.csv").open() as file:
        (row,) = csv.DictReader(file)
    expected = bd_rate(found, "fat", task().metrics[0], compared, our_rates=(0.0, math.inf))
    assert code == 0 and float(row["bd_rate_psnr_percent"]) == pytest.approx(expected, abs=0.006)
    assert abs(expected - bd_rate(found, "fat", task().metrics[0])) > 1


def test_a_metric_whose_package_is_missing_is_left_out_and_named(run, tmp_path):
    psnr, error = task().metrics
    run.task.TASK = task(metrics=(psnr, replace(error, modules=("math", "no_such_module"), extra="more")))
    code, output = run("numbers")
    assert code == 0 and "without Largest error: pip install 'rdcodec[more]'" in output, output
    assert "error_max" not in (tmp_path / "report" / "means.csv").read_text().partition("\n")[0]
    run.task.TASK = task(metrics=(replace(error, modules=("no_such_module",)),))
    code, output = run("numbers", "--force")
    assert code == 1 and "no metric is installed" in output


def test_a_task_may_add_a_page_to_its_report(run, numbers, tmp_path):
    (numbers / "bad.txt").write_text("no numbers")

    def write(path, title, paths, codecs, metrics):
        path.write_text(f"{title}; {len(paths)} {list(codecs)} {[metric.title for metric in metrics]}")

    run.task.TASK = task(page=Page(name="page.html", write=write))
    code, output = run("numbers")
    assert code == 0 and "page.html" in output
    text = (tmp_path / "report" / "page.html").read_text()
    assert text == "numbers: 3 lists of numbers; 3 ['rdcodec', 'fat'] ['PSNR', 'Largest error']"
    for path in (tmp_path / "report").glob("[!p]*"):
        path.unlink()
    (tmp_path / "report" / "points.csv").unlink()
    code, output = run("numbers")
    assert code and "page.html exists" in output


def test_a_codec_against_itself_is_no_better(run):
    code, output = run("numbers", "--references", "same")
    assert code == 0 and output.count("+0.0 %") + output.count("-0.0 %") == 2, output


def test_options_of_the_command(run, tmp_path):
    assert run("numbers", "--references", "same", "-o", "old")[0] == 0
    assert "same" in (tmp_path / "old" / "bd_rate.csv").read_text()
    assert run("numbers", "--references", "", "--qualities", "1,2", "-o", "two")[0] == 0
    assert (tmp_path / "two" / "bd_rate.csv").read_text().count("\n") == 1
    assert {line.split(",")[1] for line in (tmp_path / "two" / "means.csv").read_text().splitlines()[1:]} == {"1", "2"}
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (("nowhere",), "nowhere: no such file or folder"), (("empty",), "empty: no lists of numbers there"),
        (("numbers", "--references", "gif"), "no reference 'gif'"),
        (("numbers", "--qualities", "5,x"), "whole numbers 0..100"), (("numbers", "--qualities", "5,50"), "needs 4"),
        (("numbers", "--qualities", "5,50,101,6"), "whole numbers 0..100"),
    ):  # fmt: skip
        code, output = run(*arguments)
        assert code and message in output, arguments
    assert not (tmp_path / "report").exists()
    assert "--anchors" not in run("--help")[1] and "Comma-separated: fat, same" in run("--help")[1]


def test_an_earlier_report_is_not_overwritten_unasked(run, tmp_path):
    assert run("numbers")[0] == 0
    (tmp_path / "report" / "notes.txt").write_text("mine")
    (tmp_path / "report" / "means.csv").write_text("old")
    (tmp_path / "report" / "points.csv").unlink()
    code, output = run("numbers")
    assert code and "report/means.csv exists; --force overwrites it" in output
    assert (tmp_path / "report" / "means.csv").read_text() == "old" and not (tmp_path / "report" / "points.csv").exists()
    assert run("numbers", "--force")[0] == 0 and (tmp_path / "report" / "means.csv").read_text() != "old"
    assert (tmp_path / "report" / "notes.txt").read_text() == "mine"
    (tmp_path / "taken").write_text("a file")
    assert "taken is a file, and -o takes a folder" in run("numbers", "-o", "taken")[1]


def test_a_report_in_the_folder_itself_is_no_signal(run, numbers):
    assert run("numbers", "-o", "numbers/report")[0] == 0
    run.task.TASK = task(find=lambda folder: sorted(folder.rglob("*.*")))
    code, output = run("numbers", "-o", "numbers/report", "--force")
    assert code == 0 and "left out" not in output, output


def test_a_plot_of_a_perfect_quality(tmp_path):
    """A similarity of exactly 1 is infinitely many decibels; it is drawn, at 100."""
    from rdcodec.codecs.evaluation.metrics import similarity_db

    lines = {OURS: ([0.5, 1.0], [similarity_db(0.9), similarity_db(1.0)]), "dashed": ([0.5, 1.0], [8.0, 9.0])}
    plot(tmp_path / "a.png", [Panel(label="similarity (dB)", lines=lines)], "rate", "title", dashed=["dashed"])
    plot(tmp_path / "b.png", [Panel(label="similarity (dB)", lines=lines)], "rate", "title")
    a, b = (np.asarray(Image.open(tmp_path / name).convert("RGB")) for name in ("a.png", "b.png"))
    assert a.shape == b.shape and (a != b).any()
    panels = [Panel(label="a", lines={}), Panel(label="b", lines=lines, logarithmic=True, level=("floor", 8.5))]
    plot(tmp_path / "c.png", panels, "rate", rates=(0.0, 0.7))
    assert Image.open(tmp_path / "c.png").size[0] > Image.open(tmp_path / "a.png").size[0]


def test_evaluations_are_named_without_numpy_and_torch():
    """`codec eval --help` shows every codec's, so none may cost an import of these."""
    code = "import sys; from rdcodec import codecs\n"
    code += "for name in codecs.evaluations(): codecs.load_task(name)\n"
    code += "print(*codecs.evaluations(), *sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded[:6] == ["image", "video", "speech", "kv", "tensors", "capacity"]
    assert "rdcodec.codecs.image.evaluation" in loaded and not {"numpy", "torch", "PIL"} & set(loaded)
    with pytest.raises(KeyError, match="no codec 'gif'"):
        codecs.load_task("gif")


@pytest.mark.parametrize("width", [50, 80, 250])
def test_the_table_cuts_nothing_at_any_width(width):
    """A row for each codec, or where that is too wide, a column, and as many tables as have room for these."""
    references = {f"x265-veryfast-g{frames}": 100.0 + frames for frames in range(12, 18)}
    metrics = tuple(replace(task().metrics[0], title=f"Measure{i} polynomial") for i in range(6))
    rates = {name: [rate] * 5 + [math.nan] for name, rate in references.items()}
    console = plain(file=io.StringIO(), width=width)
    console.print(report.table_of(task(metrics=metrics), rates, []))
    text = console.file.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert all(text.count(f"+{rate:.1f} %") == 5 for rate in references.values())
    assert all(f"g{frames} " in text for frames in range(12, 18)) and text.count("veryfast-") == 6
    assert text.count(OURS) == 1 + text.count("at equal quality")
