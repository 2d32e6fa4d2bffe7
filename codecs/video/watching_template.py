"""The watching page around its frames: for `string.Template`."""

from __future__ import annotations

from ..evaluation.page import HEAD

PAGE = (
    HEAD
    + """header, main { max-width: 1500px; margin: 0 auto; padding: 16px 20px; }
nav div { max-width: 1500px; margin: 0 auto; padding: 10px 20px; display: flex; flex-wrap: wrap; gap: 6px 28px; }
fieldset { border: 0; margin: 0; padding: 0; display: flex; gap: 6px 18px; }
.controls { display: flex; gap: 12px; align-items: center; margin-bottom: 10px; }
.controls input { flex: 1; }
button { min-width: 5em; font: inherit; color: inherit; background: var(--back); cursor: pointer; }
button { border: 1px solid var(--line); border-radius: 4px; padding: 2px 10px; }
output { min-width: 6em; color: var(--soft); font-variant-numeric: tabular-nums; }
.takes { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
canvas { display: block; width: 100%; border-radius: 4px; image-rendering: pixelated; }
.alone .takes { grid-template-columns: 1fr; }
.alone figure:not(.top) { display: none; }
dl { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 6px 0 0; font-variant-numeric: tabular-nums; }
</style>
<header>
<h1>$title</h1>
<p>Frames as they were, as $ours codes them, and as $reference does in as many bytes, always the same frame in all three. Of
$ours all bytes of the file count, of $reference its packets alone. The page holds the frames as WebP of high quality:
differences of a level or two are its own.</p>
<p><kbd>space</kbd> plays and stops, <kbd>←</kbd> <kbd>→</kbd> go a frame back and on, <kbd>1</kbd> <kbd>2</kbd> <kbd>3</kbd>
show one of the three alone and large, <kbd>0</kbd> all of them, <kbd>d</kbd> shows differences from the original,
<kbd>j</kbd> <kbd>k</kbd> go to the next and the previous video, <kbd>[</kbd> <kbd>]</kbd> change the quality.</p>
</header>
<nav><div><fieldset><legend>quality of $ours</legend>$rates</fieldset>
<fieldset><legend>speed</legend><label><input type="radio" name="speed" value="1" checked> 1</label>
<label><input type="radio" name="speed" value="0.25"> 1/4</label></fieldset>
<label><input type="checkbox" id="difference"> difference, 8 times</label></div></nav>
<main>
$rows
</main>
<script>
const GAIN = 8;
const clips = [...document.querySelectorAll(".clip")], difference = document.getElementById("difference");
const radios = name => [...document.querySelectorAll(`[name=$${name}]`)];
const chosen = name => radios(name).find(radio => radio.checked).value;
let clip = clips[0], playing = null;
const pictures = new Map([...document.querySelectorAll("figure")].map(one => [one, [...one.querySelectorAll("img")]]));
const shown = box => [...box.querySelectorAll("figure")].filter(figure => !figure.hidden);
const ready = box => Promise.all(shown(box).flatMap(figure => pictures.get(figure)).map(one => one.decode()));
const frameOf = box => Number(box.querySelector("[type=range]").value);
const contextOf = figure => figure.querySelector("canvas").getContext("2d", {willReadFrequently: true});
function draw(box) {
  const frame = frameOf(box), original = box.querySelector("figure");
  const old = difference.checked && painted(original, frame).data;
  for (const figure of shown(box)) {
    const pixels = painted(figure, frame);
    if (!old || figure === original) continue;
    for (let i = 0; i < old.length; i++)
      if (i % 4 !== 3) pixels.data[i] = Math.min(255, GAIN * Math.abs(pixels.data[i] - old[i]));
    contextOf(figure).putImageData(pixels, 0, 0);
  }
  box.querySelector("output").textContent = `$${frame + 1} of $${box.dataset.frames}`;
}
function painted(figure, frame) {
  const context = contextOf(figure), {width, height} = context.canvas;
  context.drawImage(pictures.get(figure)[frame], 0, 0);
  return context.getImageData(0, 0, width, height);
}
async function show(box, frame) {
  const count = Number(box.dataset.frames);
  box.querySelector("[type=range]").value = (frame + count) % count;
  await ready(box);
  draw(box);
}
function stop() {
  if (playing) playing.box.querySelector("button").textContent = "play";
  playing = null;
}
async function play(box) {
  stop();
  const own = playing = {box};
  box.querySelector("button").textContent = "stop";
  await ready(box);
  let last = performance.now(), due = 0;
  const step = now => {
    if (playing !== own) return;
    due += (now - last) / 1000 * box.dataset.fps * chosen("speed");
    last = now;
    if (due >= 1) {
      box.querySelector("[type=range]").value = (frameOf(box) + Math.floor(due)) % box.dataset.frames;
      due %= 1;
      draw(box);
    }
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
function toggle(box) {
  if (playing && playing.box === box) stop(); else play(box);
}
async function showAll() {
  for (const figure of document.querySelectorAll("[data-rate]")) figure.hidden = figure.dataset.rate !== chosen("rate");
  await Promise.all(clips.map(box => show(box, frameOf(box))));
}
for (const radio of radios("rate")) radio.addEventListener("change", showAll);
difference.addEventListener("change", showAll);
for (const box of clips) {
  box.addEventListener("focusin", () => { clip = box; });
  box.querySelector("button").addEventListener("click", () => toggle(box));
  box.querySelector("[type=range]").addEventListener("input", () => { stop(); show(box, frameOf(box)); });
}
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !clip) return;
  const next = (list, now, by) => list[(list.indexOf(now) + by + list.length) % list.length];
  const arrow = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (event.key === " " && event.target.tagName !== "BUTTON") toggle(clip);
  else if (arrow && event.target.type !== "radio") { stop(); show(clip, frameOf(clip) + arrow); }
  else if ("0123".includes(event.key)) {
    clip.classList.toggle("alone", event.key !== "0");
    for (const figure of clip.querySelectorAll("figure")) figure.classList.toggle("top", figure.dataset.key === event.key);
  } else if (event.key === "d") difference.click();
  else if (event.key === "j" || event.key === "k") {
    clip = next(clips, clip, event.key === "j" ? 1 : -1);
    clip.focus();
    clip.scrollIntoView({block: "nearest"});
  } else if (event.key === "[" || event.key === "]") {
    next(radios("rate"), radios("rate").find(radio => radio.checked), event.key === "]" ? 1 : -1).click();
  } else return;
  event.preventDefault();
});
showAll();
</script>
</html>
"""
)
