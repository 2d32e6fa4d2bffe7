"""Ten screenshots to measure on, made by a headless browser from pages written here: five to design on, five kept apart.

    python benchmarks/drawn_pages.py PHOTOGRAPH.png -o FOLDER

Needs Chromium. Two of the pages show the photograph.
"""

from __future__ import annotations

import argparse
import base64
import html
import math
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

SIZE = 1280, 800
DESIGN, APART = "design", "apart"
WORDS = """time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area money
story fact month lot right study book eye job word business issue side kind head house service friend father power""".split()


def sentence(draw: random.Random, words: int) -> str:
    """So many random words, as a sentence."""
    return " ".join(draw.choice(WORDS) for _ in range(words)).capitalize() + "."


def paragraphs(draw: random.Random, count: int) -> str:
    return "".join(f"<p>{' '.join(sentence(draw, draw.randint(6, 16)) for _ in range(6))}</p>" for _ in range(count))


def article(draw: random.Random, photo: str) -> str:
    return f"""<body style="margin:0 auto;width:760px;font:17px/1.6 Georgia,serif;color:#222;background:#fff">
    <h1>{sentence(draw, 6)}</h1>{paragraphs(draw, 8)}</body>"""


def magazine(draw: random.Random, photo: str) -> str:
    return f"""<body style="margin:0;font:15px/1.5 sans-serif;background:#fafafa">
    <div style="background:linear-gradient(90deg,#1e3c72,#2a5298);color:#fff;padding:20px 40px;font-size:28px">News</div>
    <div style="display:flex;gap:30px;padding:30px 40px">
    <img src="{photo}" style="width:620px;height:420px;object-fit:cover">
    <div><h2>{sentence(draw, 5)}</h2>{paragraphs(draw, 3)}</div></div>
    <div style="padding:0 40px;columns:3">{paragraphs(draw, 4)}</div></body>"""


def table(draw: random.Random, photo: str) -> str:
    head = "".join(f"<th>{draw.choice(WORDS).title()}</th>" for _ in range(9))
    rows = "".join(
        f"<tr style='background:{'#eef3fa' if i % 2 else '#fff'}'><td>{draw.choice(WORDS)}</td>"
        + "".join(f"<td style='text-align:right'>{draw.uniform(-999, 9999):,.2f}</td>" for _ in range(8))
        for i in range(32)
    )
    return f"""<style>td,th{{border:1px solid #cdd;padding:2px 8px}}th{{background:#dde}}</style>
    <body style="margin:8px;font:13px Arial">
    <table style="border-collapse:collapse;width:100%"><tr>{head}</tr>{rows}</table>"""


def dashboard(draw: random.Random, photo: str) -> str:
    def card(at: int) -> str:
        heights = [draw.randint(10, 120) for _ in range(14)]
        bars = "".join(
            f"<rect x='{20 + 24 * i}' y='{140 - h}' width='16' height='{h}' fill='hsl({40 * at},60%,50%)'/>"
            for i, h in enumerate(heights)
        )
        line = " ".join(f"{20 + 24 * i},{130 - draw.randint(0, 110)}" for i in range(14))
        return f"""<div style="background:#fff;border-radius:10px;box-shadow:0 2px 8px #0002;padding:16px;width:360px">
        <b>{sentence(draw, 3)}</b><div style="font-size:30px">{draw.randint(100, 99999):,}</div>
        <svg width="360" height="150">{bars}
        <polyline points="{line}" fill="none" stroke="#d33" stroke-width="2"/></svg></div>"""

    cards = "".join(card(i) for i in range(6))
    return f"""<body style="margin:0;background:#f0f2f5;font:14px sans-serif"><div style="display:flex">
    <div style="background:#1f2937;color:#cbd5e1;width:90px;height:800px;padding:16px;line-height:2.4">{
        "<br>".join(draw.choice(WORDS).title() for _ in range(9))
    }</div>
    <div style="display:flex;flex-wrap:wrap;gap:12px;padding:18px">{cards}</div></div></body>"""


def terminal(draw: random.Random, photo: str) -> str:
    console = Console(record=True, width=120, file=open("/dev/null", "w"), force_terminal=True, color_system="truecolor")
    listing = Table(title="codec models")
    for name in ("name", "size", "trained on", "rate"):
        listing.add_column(name, style="cyan" if name == "name" else None)
    for _ in range(10):
        listing.add_row(
            draw.choice(WORDS), f"{draw.random() * 9:.1f} MB", sentence(draw, 5), f"[green]{draw.random():.3f} bpp[/]"
        )
    console.print(listing)
    for _ in range(20):
        console.print(f"[bold green]user@host[/]:[blue]~/{draw.choice(WORDS)}[/]$ ls -l {draw.choice(WORDS)}.png")
        console.print(
            f"-rw-r--r-- 1 user user {draw.randint(100, 999999):7} Jan {draw.randint(1, 30):2} {draw.choice(WORDS)}.png"
        )
    return console.export_html(inline_styles=True).replace(
        "<body>", "<body style='background:#0c0c0c;color:#ccc;font-size:13px'>"
    )


def editor(draw: random.Random, photo: str) -> str:
    console = Console(record=True, width=150, file=open("/dev/null", "w"), force_terminal=True, color_system="truecolor")
    console.print(Syntax(Path(__file__).read_text(), "python", theme="monokai", line_numbers=True))
    code = console.export_html(inline_styles=True)
    return code.replace("<body>", "<body style='background:#272822;font-size:13px;margin:4px'>")


def diagram(draw: random.Random, photo: str) -> str:
    boxes, lines = "", ""
    places = [(80 + 230 * (i % 5), 70 + 180 * (i // 5)) for i in range(20)]
    for i, (x, y) in enumerate(places):
        fill = draw.choice(("#ffe8cc", "#d3f9d8", "#d0ebff", "#f3d9fa"))
        boxes += f"<rect x='{x}' y='{y}' width='140' height='70' rx='12' fill='{fill}' stroke='#333' stroke-width='2'/>"
        boxes += f"<text x='{x + 70}' y='{y + 40}' text-anchor='middle'>{draw.choice(WORDS)} {i}</text>"
        a, b = draw.choice(places)
        lines += (
            f"<path d='M{x + 70},{y + 35} C{x},{b} {a},{y} {a + 70},{b + 35}' fill='none' stroke='#888' stroke-width='2'/>"
        )
    return f"<body style='margin:0'><svg width='1280' height='800' style='font:15px sans-serif'>{lines}{boxes}</svg></body>"


def pixel_art(draw: random.Random, photo: str) -> str:
    colours = [f"hsl({draw.randint(0, 360)},{draw.randint(30, 90)}%,{draw.randint(20, 80)}%)" for _ in range(12)]
    cells = ""
    for by in range(10):
        for bx in range(16):
            sprite = [[draw.choice(colours) if draw.random() < 0.6 else colours[0] for _ in range(4)] for _ in range(8)]
            for y, row in enumerate(sprite):
                for x, colour in enumerate([*row, *row[::-1]]):
                    cells += f"<rect x='{80 * bx + 10 * x}' y='{80 * by + 10 * y}' width='10' height='10' fill='{colour}'/>"
    return f"<body style='margin:0'><svg width='1280' height='800' shape-rendering='crispEdges'>{cells}</svg></body>"


def chat(draw: random.Random, photo: str) -> str:
    lines = "".join(
        f"<div style='margin:8px {'8px 8px 320px' if i % 2 else '320px 8px 8px'};padding:10px 16px;border-radius:18px;"
        f"background:{'#0b5cff' if i % 2 else '#2c2f33'}'>{html.escape(sentence(draw, draw.randint(3, 24)))}</div>"
        for i in range(11)
    )
    return f"""<body style="margin:0;background:#17181a;color:#eee;font:15px sans-serif"><div style="display:flex">
    <div style="width:260px;height:800px;background:#222428">{
        "".join(
            "<div style='padding:14px'><span style='display:inline-block;width:28px;height:28px;border-radius:14px;"
            f"background:hsl({draw.randint(0, 360)},60%,50%)'></span> {draw.choice(WORDS).title()}</div>"
            for _ in range(12)
        )
    }</div>
    <div style="flex:1">{lines}<img src="{photo}" style="width:300px;margin:8px;border-radius:12px"></div></div></body>"""


def plot(draw: random.Random, photo: str) -> str:
    curves = ""
    for k in range(5):
        points = " ".join(
            f"{100 + 2 * i},{600 - 90 * k - 60 * math.sin(i / (30 + 9 * k)) - draw.random() * 20:.1f}" for i in range(540)
        )
        curves += f"<polyline points='{points}' fill='none' stroke='hsl({72 * k},70%,45%)' stroke-width='1.5'/>"
    grid = "".join(f"<line x1='100' x2='1180' y1='{y}' y2='{y}' stroke='#ddd'/>" for y in range(100, 701, 60))
    ticks = "".join(f"<text x='{x}' y='730'>{x * 10}</text>" for x in range(100, 1180, 90))
    dots = "".join(
        f"<circle cx='{draw.uniform(100, 1180):.1f}' cy='{draw.gauss(400, 120):.1f}' r='3' fill='#06c' fill-opacity='.5'/>"
        for _ in range(500)
    )
    return f"""<body style='margin:0'><svg width='1280' height='800' style='font:13px sans-serif'>{grid}{dots}{curves}{ticks}
    <text x='500' y='60' font-size='22'>{sentence(draw, 5)}</text></svg></body>"""


Page = Callable[[random.Random, str], str]
PAGES: dict[str, tuple[Page, ...]] = {
    DESIGN: (article, dashboard, terminal, diagram, magazine),
    APART: (editor, table, pixel_art, chat, plot),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome") or parser.error("no chromium")
    photo = "data:image/png;base64," + base64.b64encode(args.photograph.read_bytes()).decode()
    with tempfile.TemporaryDirectory() as scratch:
        for part, pages in PAGES.items():
            (args.output / part).mkdir(parents=True, exist_ok=True)
            for seed, page in enumerate(pages):
                source, target = Path(scratch) / "page.html", args.output / part / f"{page.__name__}.png"
                source.write_text("<!doctype html><meta charset='utf-8'>" + page(random.Random(seed), photo))
                options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size={},{}".format(*SIZE)]
                subprocess.run(
                    [browser, *options, f"--screenshot={target.resolve()}", source.as_uri()], check=True, capture_output=True
                )
                print(target)


if __name__ == "__main__":
    main()
