"""Means over files, and CSV files of points."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import pytest
from evaluation_cases import task
from rdcodec.codecs.evaluation.points import OURS, MeanPoint, Point, curves, means, read_points, write_means, write_points


def point(file: str, rate: float, psnr_db: float, error_max: float, codec: str = OURS, setting: float = 5) -> Point:
    return Point(
        codec=codec, setting=setting, file=file, facts={"count": 12}, bytes=3, counted_bytes=3, rate=rate,
        metrics={"psnr_db": psnr_db, "error_max": error_max}, encode_s=0.25, decode_s=1.5,
    )  # fmt: skip


def test_means_are_of_the_same_files_in_rate_and_quality():
    """Each file counts the same whatever its size; one without a metric counts in neither half of that metric's curve."""
    points = [replace(point("small", 1.0, 30.0, math.nan), bytes=1), replace(point("large", 3.0, 40.0, 9.0), bytes=10**6)]
    found = curves(points, task().metrics)
    assert [(row.rate, row.metrics["psnr_db"]) for row in found["psnr_db"]] == [(2.0, 35.0)]
    assert [(row.rate, row.metrics["error_max"]) for row in found["error_max"]] == [(3.0, 9.0)]
    (row,) = means(points)
    assert (row.rate, row.metrics) == (2.0, {"psnr_db": 35.0, "error_max": 9.0})
    assert (row.encode_s, row.decode_s) == (0.25, 1.5)


def test_ours_comes_first_and_each_curve_by_rate():
    points = [point("a", rate, 30.0, 1.0, codec, rate) for codec in ("abc", OURS) for rate in (3.0, 1.0)]
    assert [(row.codec, row.rate) for row in means(points)] == [(OURS, 1.0), (OURS, 3.0), ("abc", 1.0), ("abc", 3.0)]


def test_a_metric_that_no_file_has_is_unknown():
    points = [point("a", 1.0, 30.0, math.nan)]
    assert math.isnan(means(points)[0].metrics["error_max"]) and curves(points, task().metrics)["error_max"] == []


def test_points_are_read_as_they_were_written(tmp_path):
    points = [point("a.txt", 1.25, 30.5, 4.0, setting=7), point("b, c.txt", 2.0, 40.0, 2.0, "fat", 0.5)]
    write_points(tmp_path / "points.csv", task(), points)
    text = (tmp_path / "points.csv").read_text()
    assert text.startswith("codec,quality,file,count,bytes,rate_bpn,psnr_db,error_max,encode_s,decode_s\n")
    assert text.splitlines()[1] == "rdcodec,7,a.txt,12,3,1.25,30.5,4,0.25,1.5"
    assert read_points(tmp_path / "points.csv", task()) == points
    write_points(tmp_path / "points.csv", task(), [point("a", 1.0, 30.0, math.nan)])
    assert math.isnan(read_points(tmp_path / "points.csv", task())[0].metrics["error_max"])


def test_a_file_of_other_columns_is_refused(tmp_path):
    write_means(tmp_path / "means.csv", task(), means([point("a", 1.0, 30.0, 4.0)]))
    with pytest.raises(ValueError, match="means.csv: no column 'file'"):
        read_points(tmp_path / "means.csv", task())


def test_means_of_unknown_times_are_written_as_nan(tmp_path):
    row = MeanPoint(codec="published", setting=0, rate=0.5, metrics={"psnr_db": 30.0, "error_max": math.nan})
    write_means(tmp_path / "means.csv", task(), [row])
    (found,) = csv.DictReader((tmp_path / "means.csv").open())
    assert found["rate_bpn"] == "0.5" and found["error_max"] == found["encode_s"] == found["decode_s"] == "nan"
