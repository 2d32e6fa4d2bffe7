"""What the command reads and what it names its outputs: folders, patterns, links, pipes, suffixes."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
from command import CODEC
from PIL import Image
from rdcodec.codecs import container
from rdcodec.codecs.terminal import files


def test_many_inputs_need_a_folder(run, photo, tmp_path):
    Image.open(photo).save(tmp_path / "second.png")
    for output in ("two.rdc", "photo.png"):  # the second is a file
        code, out, err = run("encode", "photo.png", "second.png", "-o", output, "--force")
        assert (code, out) == (1, "") and f"{output} is one file, and -o takes a folder for 2 inputs" in err
    assert run("encode", "photo.png", "./photo.png", "-o", "twice")[0] == 0 and (tmp_path / "twice" / "photo.rdc").exists()
    assert run("encode", "photo.png", "second.png", "-o", "v1.0")[0] == 0 and (tmp_path / "v1.0" / "second.rdc").exists()
    assert run("--version")[1].startswith("rdcodec ")


def test_content_decides_not_the_suffix(run, photo, tmp_path):
    photo.rename(tmp_path / "photo.txt")
    assert run("encode", "photo.txt")[0] == 0
    (tmp_path / "lie.png").write_text("this is no image")
    code, out, err = run("encode", "lie.png")
    assert (code, out) == (1, "") and err.count("\n") == 1 and "neither an image nor" in err
    assert not (tmp_path / "lie.rdc").exists()


def test_nothing_is_overwritten_without_force(run, photo, tmp_path):
    (tmp_path / "photo.rdc").write_bytes(b"precious")
    code, _, err = run("encode", "photo.png")
    assert code == 1 and "--force" in err and (tmp_path / "photo.rdc").read_bytes() == b"precious"
    assert run("encode", "photo.png", "--force")[0] == 0


def test_folders_and_globs(run, photo, tmp_path, photograph):
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(photograph[: 20 + i, :30]).save(tmp_path / "in" / f"{i}.jpg")
    (tmp_path / "in" / "notes.txt").write_text("not an image, not asked for")
    code, _, err = run("encode", "in", "-o", "packed/")
    assert code == 0 and err == "codec: note: in: 1 of 4 files left out (.txt)\n"
    assert run("decode", "packed/*.rdc", "-o", "back/")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["0.png", "1.png", "2.png"]
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8 broken")
    code, _, err = run("encode", "in", "-o", "again/")
    assert code == 1 and "bad.jpg" in err and len(list((tmp_path / "again").iterdir())) == 3  # the others are done
    assert run("encode", "missing*.png")[0] == 1


def test_subfolders_and_equal_stems_keep_apart(run, tmp_path, photograph):
    for name in ("a/1.png", "b/1.jpg", "g.png", "g.bmp"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[:20, :30]).save(tmp_path / "in" / name)
    assert run("encode", "in", "-o", "packed")[0] == 0
    packed = sorted(str(p.relative_to(tmp_path / "packed")) for p in (tmp_path / "packed").rglob("*.rdc"))
    assert packed == ["a/1.rdc", "b/1.rdc", "g.bmp.rdc", "g.png.rdc"]
    (tmp_path / "in" / "b" / "1.jpg").rename(tmp_path / "in" / "b" / "1.png")
    code, out, err = run("encode", "in/a/1.png", "in/g.png", "in/b/1.png", "-o", "flat")
    assert code == 1 and err.count("in/a/1.png, in/b/1.png share") == 2 and "g.png" not in err
    assert [path.name for path in (tmp_path / "flat").iterdir()] == ["g.rdc"], "what does not clash is done"
    code, out, err = run("encode", "in/a/1.png", "in/b/1.png", "-o", "none")
    assert (code, out, err.count("\n")) == (1, "", 1) and not (tmp_path / "none").exists()
    (tmp_path / "bad.png").write_text("no image")
    assert run("encode", "bad.png", "-o", "nothing/")[0] == 1 and not (tmp_path / "nothing").exists()


def test_folders_with_equal_names_keep_apart(run, tmp_path, photograph):
    for name in ("x/cam1/1.png", "x/cam2/1.png", "y/cam1/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(photograph[:20, :30]).save(tmp_path / name)

    def packed(folder):
        return sorted(path.relative_to(tmp_path / folder).as_posix() for path in (tmp_path / folder).rglob("*.rdc"))

    assert run("encode", "x/cam1", "x/cam2/", "-o", "two")[0] == 0 and packed("two") == ["cam1/1.rdc", "cam2/1.rdc"]
    assert run("encode", "x/cam1", "y/cam1", "-o", "others")[0] == 0
    assert packed("others") == ["x/cam1/1.rdc", "y/cam1/1.rdc"]


def test_whole_names_that_clash_in_turn(run, tmp_path, photograph):
    for name in ("a.png", "a.jpg", "a.jpg.png"):
        Image.fromarray(photograph[:20, :30]).save(tmp_path / name)
    assert run("encode", "a.png", "a.jpg", "a.jpg.png", "-o", "packed")[0] == 0
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == ["a.jpg.png.rdc", "a.jpg.rdc", "a.png.rdc"]
    assert run("decode", "packed/a.png.rdc")[0] == 0 and (tmp_path / "packed" / "a.png").exists(), "not a.png.png"


def test_an_output_that_exists_keeps_no_other_from_being_made(run, tmp_path, photograph):
    for name in ("in/a.png", "in/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photograph[:20, :30]).save(tmp_path / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.rdc").write_bytes(b"precious")
    code, out, err = run("encode", "in", "-o", "out")
    assert code == 1 and "out/a.rdc exists; --force" in err and "1 failed" in out
    assert (tmp_path / "out" / "a.rdc").read_bytes() == b"precious" and (tmp_path / "out" / "b.rdc").exists()


def test_times_of_files_are_kept_where_that_is_asked_for(run, photo, tmp_path):
    os.utime(photo, (1_000_000_000, 1_234_567_890))
    for command in (("encode", "photo.png"), ("decode", "photo.rdc", "-o", "back.jpg")):
        made = tmp_path / ("photo.rdc" if command[0] == "encode" else "back.jpg")
        assert run(*command)[0] == 0 and made.stat().st_mtime > 1_600_000_000
        assert run(*command, "--force", "--keep-times")[0] == 0 and made.stat().st_mtime == 1_234_567_890


def test_a_full_disk_names_the_output(run, photo, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_whole", full)
    monkeypatch.setattr(files, "whole_file", full)
    assert run("encode", "photo.png", "-o", "x.rdc")[1:] == ("", "codec: photo.png: x.rdc: No space left on device\n")


def test_each_output_is_named_after_what_its_file_holds(run, photo, tmp_path):
    (tmp_path / "in").mkdir()
    photo.rename(tmp_path / "in" / "photo.png")
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 5, 8) for n in "kv"}, tmp_path / "in" / "c.safetensors")
    assert run("encode", "in", "-o", "packed/")[0] == 0
    assert run("decode", "packed", "-o", "back/")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["c.safetensors", "photo.png"]
    assert set(safetensors.torch.load_file(tmp_path / "back" / "c.safetensors")) == {"layers.0.k", "layers.0.v", "tokens"}
    (tmp_path / "junk.rdc").write_bytes(b"junk")
    code, out, err = run("decode", "junk.rdc")
    assert (code, out) == (1, "") and err.startswith("codec: junk.rdc: unsupported: ")


def test_outputs_with_the_suffix_of_another_format_are_refused(run, photo, tmp_path):
    safetensors.torch.save_file({f"layers.0.{n}": torch.randn(2, 5, 16) for n in "kv"}, tmp_path / "c.safetensors")
    run("encode", "c.safetensors")
    for arguments, message in (
        (["encode", "photo.png", "-o", "x.png"], "the output x.png would be .rdc, not .png"),
        (["encode", "c.safetensors", "-o", "x.safetensors"], "would be .rdc, not .safetensors"),
        (["decode", "c.rdc", "-o", "x.png"], "the output x.png would be .safetensors, not .png"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1) and message in err
    assert not list(tmp_path.glob("x.*"))
    assert run("decode", "c.rdc", "-o", "x.bin")[0] == 0


def test_a_format_for_outputs_that_o_does_not_name(run, photo, tmp_path):
    (tmp_path / "packed").mkdir()
    run("encode", "photo.png", "-o", "packed/a.rdc")
    (tmp_path / "packed" / "b.rdc").write_bytes((tmp_path / "packed" / "a.rdc").read_bytes())
    assert run("decode", "packed", "-o", "back", "--format", "jpg")[0] == 0
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == ["a.jpg", "b.jpg"]
    for arguments, name in ((["-o", "x.jpeg", "--format", "JPG"], "x.jpeg"), (["--format", "webp"], "packed/a.webp")):
        assert run("decode", "packed/a.rdc", *arguments)[0] == 0
        assert Image.open(tmp_path / name).format == {".jpeg": "JPEG", ".webp": "WEBP"}[Path(name).suffix]
    code, out, err = run("decode", "packed/a.rdc", "-o", "y.png", "--format", "jpg")
    assert (code, out, err.count("\n")) == (1, "", 1) and "the output y.png would be .jpg, not .png" in err
    assert run("decode", "packed", "-o", "y", "--format", "gif")[0] == 1 and not list(tmp_path.glob("y*"))


def test_decode_reads_its_input_once(run, photo, tmp_path):
    """A pipe, as the shell's <(...), can be read only once."""
    run("encode", "photo.png")
    os.mkfifo(tmp_path / "pipe")
    data = (tmp_path / "photo.rdc").read_bytes()
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True).start()
    subprocess.run([CODEC, "decode", "pipe"], check=True, capture_output=True, timeout=60)  # a second read waits for ever
    assert Image.open(tmp_path / "pipe.png").size == (120, 96)


def test_a_folder_gives_a_folder_however_many_it_holds(run, photo, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes((tmp_path / "photo.png").read_bytes())
    assert run("encode", "one/", "-o", "packed")[0] == 0
    assert [str(p.relative_to(tmp_path)) for p in (tmp_path / "packed").iterdir()] == ["packed/a.rdc"]
    code, _, err = run("decode", "packed", "-o", "out.jpg")
    assert code == 1 and "out.jpg is one file, and -o takes a folder for an input folder" in err
    assert not (tmp_path / "out.jpg").exists()


def test_what_holds_nothing_to_read_is_told_briefly(run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run("encode", "empty")[2] == "codec: empty: the folder is empty\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("x")
    assert run("encode", "in")[2] == "codec: in: none of the folder's 1 files can be read (.txt)\n"
    assert run("decode", "in")[2] == "codec: in: none of the folder's 1 files can be read (.txt); need .rdc or .tar\n"
    (tmp_path / "notes.txt").write_text("hi")
    code, _, err = run("encode", "notes.txt")
    assert code == 1 and err == "codec: notes.txt: read as a list of inputs, one a line, and there is no 'hi'\n"


def test_a_folder_in_an_outputs_place_is_found_before_work(run, photo, tmp_path):
    (tmp_path / "photo.rdc").mkdir()
    for force in ([], ["--force"]):
        code, _, err = run("encode", "photo.png", *force)
        assert code == 1 and "photo.rdc is a folder; -o takes a file" in err


def test_a_link_stays_and_a_pipe_gets_the_data(run, photo, tmp_path):
    (tmp_path / "real.rdc").write_bytes(b"old")
    (tmp_path / "link.rdc").symlink_to("real.rdc")
    assert run("encode", "photo.png", "-o", "link.rdc")[0] == 1
    assert run("encode", "photo.png", "-o", "link.rdc", "--force")[0] == 0
    assert (tmp_path / "link.rdc").is_symlink() and (tmp_path / "real.rdc").read_bytes().startswith(container.MAGIC)
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor() as pool:
        read = pool.submit((tmp_path / "pipe").read_bytes)
        assert run("encode", "photo.png", "-o", "pipe")[0] == 0
    assert read.result() == (tmp_path / "real.rdc").read_bytes() and not (tmp_path / "pipe").is_file()


def test_outputs_that_cannot_be_are_found_before_anything_is_read(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(files.Job, "read", lambda self: pytest.fail("read"))
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "bare").write_bytes(photo.read_bytes())
    (tmp_path / "link").symlink_to("bare")
    for arguments, message in (
        (["encode", "photo.png", "-o", "taken/"], "taken is a file, and taken/photo.rdc needs a folder there"),
        (["encode", "photo.png", "-o", "taken/a/x.rdc"], "taken is a file, and taken/a/x.rdc needs"),
        (["encode", "bare", "-o", "bare", "--force"], "bare is the input itself; give -o another name"),
        (["encode", "bare", "-o", "link", "--force"], "link is the input itself"),
        (["decode", "photo.png"], "photo.png is the input itself"),
        (["encode", ""], "an input's name is empty"),
        (["encode", "photo.png", "-o", ""], "the output's name is empty"),
    ):
        code, out, err = run(*arguments)
        assert (code, out, err) == (1, "", f"codec: {message}{err.removeprefix(f'codec: {message}')}"), arguments
    for command in (["demo"], ["eval", "image"]):
        code, out, err = run(*command, "nowhere.png")
        assert (code, out, err.count("\n")) == (1, "", 1) and err.startswith("codec: nowhere.png: ")
    code, out, err = run("demo", "taken")
    assert (code, out) == (1, "") and err.startswith("codec: taken: not an image")


def test_an_input_named_twice_is_one_input(run, photo, tmp_path):
    code, out, err = run("encode", "photo.png", "./photo.png", "*.png")
    assert (code, err) == (0, "") and out.count("\n") == 1 and (tmp_path / "photo.rdc").exists()


def test_standard_input_and_output(photo, tmp_path):
    """As a process, in a pipe: bytes only on standard output."""
    encoded = subprocess.run([CODEC, "encode", "-"], stdin=photo.open("rb"), capture_output=True, check=True)
    assert encoded.stdout[:4] == b"\x89RDC" and b"bpp" in encoded.stderr
    decoded = subprocess.run([CODEC, "decode", "-"], input=encoded.stdout, capture_output=True, check=True)
    assert decoded.stdout[:4] == b"\x89PNG"
