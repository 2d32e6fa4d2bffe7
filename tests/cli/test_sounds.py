"""Sounds on the command line: files, and pipes that stay open while they are coded."""

from __future__ import annotations

import io
import json
import os
import re
import select
import subprocess
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
import soundfile
from command import CODEC
from rdcodec.codecs.cli import main as cli
from rdcodec.codecs.cli.conversion import Decoding, Encoding
from rdcodec.codecs.cli.signature import faces
from rdcodec.codecs.contract import Desk
from rdcodec.codecs.speech import face
from rdcodec.codecs.speech.packets import HEAD_BYTES, live_bytes, packets_of
from rdcodec.codecs.speech.pcm import wav_header
from rdcodec.codecs.terminal.files import Pipe
from typer.testing import CliRunner
from voices import RATE, voice

TALK = np.round(voice(3.0) * 32767).astype("<i2")
WAIT_S = 120
GIVEN = {field.name: field.default for one in faces() for field in fields(one.Decode)}
ENCODE_OPTIONS = [field.name for one in faces() for field in fields(one.Encode)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "talk.wav", TALK, RATE)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        done = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(cli.app, list(arguments), input=stdin)
        return done.exit_code, done.stdout_bytes, done.stderr or str(done.exception)

    return run


def test_a_file_and_a_live_stream_hold_the_same_sound(run, tmp_path):
    assert run("encode", "talk.wav", "-q", "30")[0] == 0 and run("decode", "talk.rdc", "-o", "file.wav")[0] == 0
    for given, options in (((tmp_path / "talk.wav").read_bytes(), ()), (TALK.tobytes(), ("--pcm", "16000"))):
        code, live, err = run("encode", "-", "-q", "30", *options, stdin=given)
        assert code == 0 and "kbit/s" in err
        assert ("with -o FILE it becomes a file" in err) == (not options), "of a WAV that knows its length"
        code, wav, _ = run("decode", "-", stdin=live)
        (tmp_path / "live.wav").write_bytes(wav)
        np.testing.assert_array_equal(*(soundfile.read(tmp_path / name)[0] for name in ("file.wav", "live.wav")))
        code, raw, _ = run("decode", "-", "--format", "pcm", stdin=live)
        assert code == 0 and raw == wav[44:]


def test_a_live_stream_in_a_file_is_read_as_others_are(run, tmp_path):
    live = run("encode", "-", "--pcm", "16000", stdin=TALK.tobytes())[1]
    (tmp_path / "live.rdc").write_bytes(live)
    facts = json.loads(run("info", "live.rdc", "--json")[1])
    assert (facts["samples"], facts["live"], facts["chunk_s"]) == (len(TALK), True, 0.32)
    assert facts["rate_kbps"] == pytest.approx(len(live) * 8 / 3000, rel=1e-3)
    shown = str(run("info", "live.rdc")[1])
    assert "packet" in shown and "damage" not in shown and "crc32" not in shown, "it has no chunks"
    assert run("verify", "live.rdc")[0] == 0
    assert run("decode", "live.rdc", "-o", "live.flac")[0] == 0 and soundfile.info("live.flac").frames == len(TALK)
    assert "no parts" in run("decode", "live.rdc", "-o", "part.wav", "--from", "1")[2]
    damaged = bytearray(live)
    damaged[len(live) // 2] ^= 255
    (tmp_path / "live.rdc").write_bytes(damaged)
    code, _, err = run("verify", "live.rdc")
    assert code == 1 and "corrupt" in err and "concealed" in err
    (tmp_path / "live.rdc").write_bytes(live[:-3])
    code, _, err = run("decode", "live.rdc", "-o", "cut.wav")
    assert code == 1 and "truncated" in err and not (tmp_path / "cut.wav").exists()
    code, _, err = run("decode", "live.rdc", "-o", "cut.wav", "--salvage")
    assert code == 0 and "ends" in err and 2 < soundfile.info("cut.wav").duration < 3


def test_raw_samples_are_taken_from_files_as_well(run, tmp_path):
    (tmp_path / "talk.raw").write_bytes(TALK.tobytes())
    assert run("encode", "talk.raw", "--pcm", "16000", "-o", "raw.rdc")[0] == run("encode", "talk.wav")[0] == 0
    assert (tmp_path / "raw.rdc").read_bytes() == (tmp_path / "talk.rdc").read_bytes()
    assert run("decode", "raw.rdc", "-o", "back.pcm")[0] == 0 and (tmp_path / "back.pcm").stat().st_size == 2 * len(TALK)
    code, _, err = run("encode", "talk.raw", "--pcm", "loud", "-o", "x.rdc")
    assert code != 0 and "need RATE or RATExCHANNELS" in err
    code, out, _ = run("encode", "-", "--pcm", "16000", "--kbps", "3", stdin=TALK.tobytes())
    assert code == 0 and len(out) * 8 / 3 <= 3000 and out[18:22] != bytes(4), "a target needs the whole: a file with chunks"


def test_effort_refines_whole_sounds_and_any_decoder_reads_them(run, tmp_path):
    assert run("encode", "talk.wav", "-o", "plain.rdc")[0] == run("encode", "talk.wav", "--effort", "1")[0] == 0
    refined = (tmp_path / "talk.rdc").read_bytes()
    assert refined != (tmp_path / "plain.rdc").read_bytes() and run("decode", "talk.rdc", "-o", "back.wav")[0] == 0
    code, out, _ = run("encode", "-", "--effort", "1", stdin=(tmp_path / "talk.wav").read_bytes())
    assert code == 0 and out == refined, "no live stream"
    assert run("encode", "talk.wav", "-o", "x.rdc", "--effort", "10")[0] == 1 and not (tmp_path / "x.rdc").exists()


def test_music_is_coded_with_a_word_on_what_to_expect(run, tmp_path):
    chord = sum(np.sin(2 * np.pi * hertz * np.arange(3 * RATE) / RATE) for hertz in (262, 330, 392)) / 4
    soundfile.write(tmp_path / "chord.wav", chord, RATE)
    code, _, err = run("encode", "chord.wav")
    assert code == 0 and "sounds like music" in err and run("decode", "chord.rdc", "-o", "back.wav")[0] == 0
    code, _, err = run("encode", "talk.wav")
    assert code == 0 and "music" not in err


def test_a_rate_that_cannot_be_is_refused_with_the_limits_of_sounds(run, tmp_path):
    for value in ("0", "-1", "nan", "1001"):
        code, out, err = run("encode", "talk.wav", "--kbps", value)
        assert (code, out, err.count("\n")) == (1, b"", 1) and f"--kbps {value}; need a number above 0" in err
        assert "at most 1000, like 3" in err and not (tmp_path / "talk.rdc").exists()


def test_parts_by_minutes(run, tmp_path):
    run("encode", "talk.wav")
    assert run("decode", "talk.rdc", "-o", "seconds.wav", "--from", "1.5", "--to", "2.25")[0] == 0
    assert run("decode", "talk.rdc", "-o", "minutes.wav", "--from", "0:01.5", "--to", "0:00:02.25")[0] == 0
    assert (tmp_path / "minutes.wav").read_bytes() == (tmp_path / "seconds.wav").read_bytes()
    for wrong in ("1:60", "1:60:00", "-1", "nan", "1e0", "1m30", "1:", ":30", "1:2:3:4", ""):
        code, _, err = run("decode", "talk.rdc", "-o", "part.wav", "--from", wrong)
        assert code == 1 and "like 12.5, or minutes" in err and not (tmp_path / "part.wav").exists()


def test_damage_is_named_with_its_seconds_and_what_recovers_the_rest(run, tmp_path):
    run("encode", "talk.wav")
    data = bytearray((tmp_path / "talk.rdc").read_bytes())
    data[-9] ^= 1
    (tmp_path / "talk.rdc").write_bytes(data)
    code, _, err = run("decode", "talk.rdc", "-o", "back.wav")
    assert code == 1 and "corrupt: chunk 0 (of 0..0, 0.00 to 3.00 s): " in err and not (tmp_path / "back.wav").exists()
    assert err.endswith("; --salvage recovers what is undamaged\n") and "0.00 to 3.00 s" in run("verify", "talk.rdc")[2]
    assert "--salvage recovers" not in run("decode", "talk.rdc", "-o", "back.wav", "--salvage")[2], "nothing is left"
    (tmp_path / "talk.rdc").write_bytes(data[:-99])
    assert "truncated" in (err := run("decode", "talk.rdc", "-o", "back.wav")[2]) and "--salvage recovers" in err


def test_a_format_that_is_not_written_is_answered_with_those_that_are(run, tmp_path):
    run("encode", "talk.wav")
    for name in ("back.m4a", "back.png", "back.xyz"):
        code, _, err = run("decode", "talk.rdc", "-o", name)
        assert code == 1 and f"the output {name}; its name must end in one of .wav, .flac, .ogg, .opus, .mp3" in err


def test_of_one_sample_no_rate_is_told(run, tmp_path):
    soundfile.write(tmp_path / "one.wav", TALK[:1], RATE)
    code, out, err = run("encode", "one.wav")
    assert code == 0 and b"kbit/s" not in out and b":1" not in out and "constant" not in err
    assert b"kbit/s" in (out := run("encode", "talk.wav")[1]) and b":1" in out


def test_a_reader_that_has_enough_ends_the_command_without_a_word(run, tmp_path):
    """As `head` does; also where the output is whole before it is written."""
    run("encode", "talk.wav")
    live = run("encode", "-", stdin=(tmp_path / "talk.wav").read_bytes())[1]
    for source, given in (("talk.rdc", b""), ("-", live)):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as out:
            done = subprocess.run([CODEC, "decode", source, "-o", "-"], cwd=tmp_path, input=given, stdout=out, stderr=-1)
        assert (done.returncode, done.stderr) == (141, b"")


def piped(feed) -> Pipe:
    """A pipe into which ``feed`` writes meanwhile."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            feed(file)

    threading.Thread(target=write, daemon=True).start()
    return Pipe(os.fdopen(reading, "rb", buffering=0))


def test_a_decoder_loads_while_it_waits_for_a_stream(run):
    live, desk = run("encode", "-", "--pcm", "16000", stdin=TALK.tobytes())[1], Desk("cpu")
    loaded = []

    def feed(file) -> None:
        until = time.monotonic() + WAIT_S
        while not desk.loaded and time.monotonic() < until:
            time.sleep(0.05)
        loaded.append(bool(desk.loaded))
        file.write(live)

    pipe = piped(feed)
    found, _ = Decoding(given=GIVEN, device="cpu").live_from(pipe, desk)
    assert found is face.FACE and loaded == [True] and pipe.read() == live
    assert [codec.stream_hash for codec in desk.loaded.values()] == list(desk.loaded)


def test_what_comes_at_once_or_is_no_stream_is_decoded_as_ever(monkeypatch):
    """Nothing is loaded for it, and what cannot be loaded is no error of an image that comes late."""
    desk = Desk("cpu")
    pipe = piped(lambda file: file.write(bytes(99)))
    time.sleep(0.1)
    assert Decoding(given=GIVEN, device="cpu").live_from(pipe, desk) is None and not desk.loaded
    monkeypatch.setattr(face, "codec_with", lambda *_: 1 / 0)
    pipe = piped(lambda file: (time.sleep(0.5), file.write(bytes(99))))
    assert Decoding(given=GIVEN, device="cpu").live_from(pipe, desk) is None and pipe.read() == bytes(99)


def test_an_encoder_of_raw_samples_waits_for_none_before_it_loads():
    given = {name: None for name in ENCODE_OPTIONS} | {"pcm": "16000"}
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe, os.fdopen(writing, "wb"):
        found, _ = Encoding(given=given, device="cpu").live_from(Pipe(pipe), Desk("cpu"))
    assert found is face.FACE


def test_a_constant_is_said_to_be_lost_and_is_no_music(run, tmp_path):
    constant = np.full(3 * RATE, 0.5)
    soundfile.write(tmp_path / "constant.wav", constant, RATE)
    wav = (tmp_path / "constant.wav").read_bytes()
    for code, _, err in (run("encode", "constant.wav"), run("encode", "-", stdin=wav)):
        assert code == 0 and "a constant offset of 0.5 of full scale is not kept" in err and "music" not in err
    assert "constant" not in run("encode", "talk.wav")[2]


def test_clipping_is_told(run, tmp_path):
    """A square wave of full scale overshoots once it is coded."""
    soundfile.write(tmp_path / "loud.wav", 0.999 * np.sign(voice(3.0)), RATE)
    assert run("encode", "loud.wav", "-q", "80")[0] == 0
    live = run("encode", "-", "-q", "80", stdin=(tmp_path / "loud.wav").read_bytes())[1]
    for code, _, err in (run("decode", "loud.rdc", "-o", "back.wav"), run("decode", "-", stdin=live)):
        assert code == 0 and re.search(r"note: \d+ samples beyond full scale were clipped\n", err)
    (tmp_path / "live.rdc").write_bytes(live)
    assert run("verify", "live.rdc")[0] == 0
    assert run("encode", "talk.wav")[0] == 0 and "clipped" not in run("decode", "talk.rdc", "-o", "talk.flac")[2]


@pytest.mark.parametrize("given", [b"", b"\1", wav_header(RATE, 1, None)], ids=["nothing", "an odd byte", "a WAV's head"])
def test_a_pipe_without_a_whole_sample_leaves_nothing_behind(run, given):
    code, out, err = run("encode", "-", *(() if given[:4] == b"RIFF" else ("--pcm", "16000")), stdin=given)
    assert (code, out) == (1, b"") and ("is empty" in err or "left over" in err)


def test_what_is_lost_and_left_out_of_a_live_stream_is_told_in_a_line_each(run):
    """Also of another sound that follows in the same pipe."""
    live, other = (run("encode", "-", "--pcm", "16000", stdin=s.tobytes())[1] for s in (TALK, TALK[::-1]))
    head, *packets = packets_of(io.BytesIO(live))
    data = b"".join(live_bytes(head, [*packets[:3], *packets[6:]])) + other[HEAD_BYTES:]
    code, out, err = run("decode", "-", "--format", "pcm", "--json", stdin=data)
    assert (code, len(out)) == (0, 2 * len(TALK)) and json.loads(err.splitlines()[-1])["lost_s"] == [[0.96, 1.92]]
    assert "0.96 to 1.92 s are concealed (it did not come)\n" in err
    assert "left out after 3.20 s: 7 packets (the sound had ended)\n" in err, "three may be those that did not come"


@pytest.mark.parametrize("kind", ["pcm", "wav"])
def test_a_pipe_is_coded_and_decoded_while_it_is_open(kind):
    """Samples go in at one end; before it is closed, they come out of the other, through two processes."""
    options = ["--pcm", "16000"] if kind == "pcm" else []
    encoder = subprocess.Popen([CODEC, "encode", "-", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    decoder = subprocess.Popen([CODEC, "decode", "-"], stdin=encoder.stdout, stdout=subprocess.PIPE)
    try:
        encoder.stdin.write((b"" if kind == "pcm" else wav_header(RATE, 1, None)) + TALK.tobytes())
        encoder.stdin.flush()
        played, until = b"", time.monotonic() + WAIT_S
        while len(played) < 44 + RATE * 2 * 2 and time.monotonic() < until:
            if select.select([decoder.stdout], [], [], 1)[0]:
                played += decoder.stdout.read1(1 << 16)
        assert len(played) >= 44 + RATE * 2 * 2, "two of three seconds, and the input is open"
        encoder.stdin.close()
        played += decoder.stdout.read()
        assert len(played) == 44 + 2 * len(TALK) and played.startswith(b"RIFF")
        assert encoder.wait(WAIT_S) == decoder.wait(WAIT_S) == 0
    finally:
        for process in (encoder, decoder):
            process.kill()
            process.wait()
            for end in (process.stdin, process.stdout):
                end.close() if end else None


def test_json_tells_how_long_the_sound_is_and_how_long_it_took(run):
    for arguments in ("encode", "talk.wav"), ("decode", "talk.rdc", "-o", "back.wav"), ("info", "talk.rdc"):
        facts = json.loads(run(*arguments, "--json")[1])
        assert facts["duration_s"] == 3.0
        assert ("wall_s" in facts) == (arguments[0] != "info")
