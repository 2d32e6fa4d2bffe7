"""Many files: processes, going on after a kill, lists and patterns, what is told of all of them."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import CODEC
from dying import Dying, dead
from PIL import Image
from rdcodec.codecs import container
from rdcodec.codecs.cli import engines, many
from rdcodec.codecs.terminal.files import Job
from rdcodec.codecs.terminal.paths import remove_parts


@pytest.fixture
def pictures(tmp_path, photograph) -> Path:
    """A folder of eight small pictures in two folders."""
    for i in range(8):
        folder = tmp_path / "in" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[20 * i : 20 * i + 24 + i, :40]).save(folder / f"{i}.png")
    return tmp_path / "in"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_processes_write_what_one_does_in_the_same_order(run, pictures, tmp_path):
    code, alone, err = run("encode", "in", "-o", "alone", "--json")
    assert (code, err) == (0, "")
    code, out, err = run("encode", "in", "-o", "packed", "-j", "2", "--json")
    assert (code, err) == (0, "")
    names = [[json.loads(line)["input"] for line in text.splitlines()] for text in (alone, out)]
    assert names[0] == names[1] and len(names[0]) == 8
    assert contents(tmp_path / "packed") == contents(tmp_path / "alone")
    code, out, err = run("decode", "packed", "-o", "back", "-j", "2")
    assert (code, err) == (0, "") and out.splitlines()[-1].startswith("8 files  ")
    assert sorted(contents(tmp_path / "back")) == sorted(contents(pictures))
    (tmp_path / "packed" / "a" / "0.rdc").write_bytes(b"junk")
    code, out, err = run("verify", "packed", "-j", "2", "--failures", "failed.jsonl")
    assert code == 1 and out.count("  ok\n") == 7 and "7 files" in out and "1 failed" in out
    assert err.startswith("codec: packed/a/0.rdc: unsupported: ") and err.count("\n") == 1
    (failed,) = map(json.loads, (tmp_path / "failed.jsonl").read_text().splitlines())
    assert failed["input"] == "packed/a/0.rdc" and failed["error"].startswith("unsupported: ")


@pytest.mark.parametrize(
    ("options", "files", "expected"),
    [
        ([], 64, 2),
        ([], 63, 0),
        (["-j", "0"], 64, 0),
        (["-j", "3"], 2, 3),
        (["--traceback"], 64, 0),
        (["--device", "cuda"], 64, 0),
    ],
)
def test_many_files_get_processes_unasked(run, monkeypatch, tmp_path, options, files, expected):
    for number in range(files):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG")
    started = []

    def engine(jobs, conversion, count, *, alone=False):
        started.append(count if isinstance(count, int) else 0)
        return iter(())

    monkeypatch.setattr(many, "processes", engine)
    monkeypatch.setattr(many, "one_process", engine)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(sys, "argv", ["codec", *options])
    run("encode", ".", *options)
    assert started == [expected]


def test_outputs_that_exist_are_skipped_and_only_they(run, pictures, tmp_path):
    assert run("encode", "in", "-o", "packed")[0] == 0
    whole = contents(tmp_path / "packed")
    (tmp_path / "packed" / "a" / "2.rdc").unlink()
    (tmp_path / "packed" / "b" / "1.rdc").write_bytes(b"precious")
    code, out, _ = run("encode", "in", "-o", "packed")
    assert code == 1 and "1 file " in out and "7 failed" in out
    assert contents(tmp_path / "packed") == whole | {"b/1.rdc": b"precious"}
    (tmp_path / "packed" / "a" / "2.rdc").unlink()
    code, out, _ = run("encode", "in", "-o", "packed", "--skip-existing")
    assert code == 0 and [line.split()[0] for line in out.splitlines()[:-1]] == ["packed/a/2.rdc"] and "7 skipped" in out
    assert contents(tmp_path / "packed") == whole | {"b/1.rdc": b"precious"}
    code, out, _ = run("encode", "in", "-o", "packed", "--skip-existing", "--failures", "failed.jsonl")
    assert code == 0 and out.startswith("0 files") and (tmp_path / "failed.jsonl").read_text() == ""


def test_killed_at_any_time_and_resumed_it_is_complete_and_the_same(run, pictures, tmp_path):
    assert run("encode", "in", "-o", "whole")[0] == 0
    command = [CODEC, "encode", "in", "-o", "packed", "-j", "2", "--skip-existing"]
    for wanted in (1, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while len(list((tmp_path / "packed").rglob("*.rdc"))) < wanted:
            time.sleep(0.02)
            assert process.poll() in (None, 0)
        workers = children(process.pid)
        process.kill()
        process.wait()
        for _ in range(500):
            if not any(Path(f"/proc/{worker}").exists() for worker in workers):
                break
            time.sleep(0.02)
        else:
            pytest.fail("workers live on without their parent")
    (tmp_path / "packed" / "a" / ".0.rdc.0badcafe.part").write_bytes(b"half")
    os.utime(tmp_path / "packed" / "a" / ".0.rdc.0badcafe.part", (0, 0))
    assert run(*map(str, command[1:]))[0] == 0
    assert contents(tmp_path / "packed") == contents(tmp_path / "whole")


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_a_process_that_dies_takes_one_file_with_it(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    jobs = [Job(Path(name), None) for name in ("1", "bad2", "3", "4", "bad5", "6")]
    done = list(engines.processes(jobs, Dying(given={}, device="cpu"), 2))
    assert [job.name for job, _ in done] == [job.name for job in jobs]
    assert [bool(report.error) for _, report in done] == [False, True, False, False, True, False]
    assert {report.line for _, report in done if not report.error} == {"1"}
    assert done[1][1].error == "its process died: killed, or out of memory"


def test_processes_that_cannot_start_end_the_run(monkeypatch):
    monkeypatch.setattr(engines, "start_worker", dead)
    with pytest.raises(ChildProcessError, match="processes end as they start .3 in a row.*-j 0 needs none"):
        list(engines.processes([Job(Path("1"), None), Job(Path("2"), None)], Dying(given={}, device="cpu"), 2))


def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path):
    target = tmp_path / "x.rdc"
    parts = [tmp_path / name for name in (".x.rdc.00.part", ".x.rdc.11.part", ".x.rdc.22.part", ".y.rdc.00.part")]
    for part in parts:
        part.write_bytes(b"half")
        os.utime(part, (0, 0))
    abandoned, locked, fresh, others = parts
    os.utime(fresh)
    with locked.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert remove_parts([target]) == 1
    assert not abandoned.exists() and all(part.exists() for part in (locked, fresh, others))
    for part in (locked, fresh):
        part.unlink()
    with container.replaced(target) as file:
        (ours,) = tmp_path.glob(".x.rdc.*.part")
        file.flush()
        os.utime(ours, (0, 0))
        assert remove_parts([target]) == 0
    assert target.exists()


@pytest.mark.parametrize("name", ["names.txt", "@names.lst"])
def test_lists_name_files(run, pictures, tmp_path, name):
    absolute = pictures / "b" / "1.png"
    (tmp_path / name.removeprefix("@")).write_text(f"# two\nin/a/0.png\n\n{absolute}\nin/a/0.png\nin/gone.png\n")
    code, out, err = run("encode", name, "-o", "packed")
    assert code == 1 and err.startswith("codec: in/gone.png: No such file") and err.count("\n") == 1
    assert sorted(contents(tmp_path / "packed")) == ["a/0.rdc", "b/1.rdc"]
    (tmp_path / "one.lst").write_text("in/a/0.png\n")
    assert "-o takes a folder for an input folder or list" in run("encode", "@one.lst", "-o", "x.rdc")[2]
    (tmp_path / "empty.txt").write_text("# none\n")
    assert run("encode", "empty.txt")[2] == "codec: the list of inputs is empty\n"


def test_lists_lead_to_no_place_outside_the_output(run, pictures, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "names.txt").write_text("in/../in/a/0.png\n./in/b/../b/1.png\n")
    assert run("encode", "names.txt", "-o", "deep/er")[0] == 0
    assert sorted(contents(tmp_path / "deep")) == ["er/a/0.rdc", "er/b/1.rdc"]


def test_patterns_keep_what_they_find_in_its_place(run, pictures, tmp_path):
    assert run("encode", "in/**/*.png", "-o", "packed")[0] == 0
    assert sorted(contents(tmp_path / "packed")) == sorted(name.replace(".png", ".rdc") for name in contents(pictures))
    assert run("encode", "in/a/[04].png", "-o", "two")[0] == 0
    assert sorted(contents(tmp_path / "two")) == ["0.rdc", "4.rdc"]


def test_other_processes_have_no_standard_input_and_output(run, pictures):
    code, out, err = run("encode", "-", "-o", "x.rdc", "-j", "2")
    assert (code, out) == (1, "") and "standard input cannot be read by other processes" in err
    code, out, err = run("encode", "in/a/0.png", "-o", "-", "-j", "2")
    assert (code, out) == (1, "") and "standard output cannot be written by other processes" in err


def test_an_interrupt_ends_the_workers(pictures, tmp_path):
    command = [CODEC, "encode", "in", "-o", "packed", "-j", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not list((tmp_path / "packed").rglob("*.rdc")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 0) and b"Traceback" not in err
