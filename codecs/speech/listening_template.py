"""The listening page around its sounds: for `string.Template`."""

from __future__ import annotations

from ..evaluation.page import HEAD

PAGE = (
    HEAD
    + """header, main { max-width: 1240px; margin: 0 auto; padding: 16px 20px; }
fieldset { max-width: 1240px; margin: 0 auto; border: 0; padding: 10px 20px; display: flex; flex-wrap: wrap; gap: 6px 18px; }
.takes { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 14px; }
.playing kbd { background: var(--mark); border-color: var(--mark); color: var(--card); }
img { display: block; width: 100%; height: 128px; border-radius: 4px; }
audio { display: block; width: 100%; margin: 8px 0 4px; }
dl { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0; font-variant-numeric: tabular-nums; }
</style>
<header>
<h1>$title</h1>
<p>Each sound as it was, as $ours codes it, and as Opus does with as many bits. Of $ours all bytes of the file count, of Opus
its packets alone. Opus cannot go below some 4 kbit/s: where it has more bits than $ours, its rate says so.</p>
<p><kbd>1</kbd> <kbd>2</kbd> <kbd>3</kbd> switch between original, $ours and Opus at the same moment,
<kbd>space</kbd> stops and goes on, <kbd>j</kbd> <kbd>k</kbd> go to the next and the previous sound,
<kbd>[</kbd> <kbd>]</kbd> change the rate.</p>
</header>
<nav><fieldset><legend>kbit/s, about</legend>$rates</fieldset></nav>
<main>
$rows
</main>
<script>
const clips = [...document.querySelectorAll(".clip")], radios = [...document.querySelectorAll("[name=rate]")];
let clip = clips[0], audio = null;
const shown = box => [...box.querySelectorAll("figure")].filter(figure => !figure.hidden);
function play(next, at) {
  if (audio && audio !== next) audio.pause();
  if (at !== undefined) next.currentTime = Math.min(at, next.duration || at);
  next.play();
}
function showRate() {
  const rate = radios.find(radio => radio.checked).value, was = audio && !audio.paused ? audio : null;
  for (const figure of document.querySelectorAll("[data-rate]")) figure.hidden = figure.dataset.rate !== rate;
  const old = was && was.closest("figure");
  const same = old && shown(old.closest(".clip")).find(one => one.dataset.key === old.dataset.key);
  if (old && old.hidden) play(same.querySelector("audio"), was.currentTime);
}
for (const radio of radios) radio.addEventListener("change", showRate);
for (const box of clips) box.addEventListener("focusin", () => { clip = box; });
document.addEventListener("play", event => {
  if (audio && audio !== event.target) audio.pause();
  audio = event.target;
  clip = audio.closest(".clip");
  audio.closest("figure").classList.add("playing");
}, true);
for (const kind of ["pause", "ended"])
  document.addEventListener(kind, event => event.target.closest("figure").classList.remove("playing"), true);
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || !clip) return;
  const step = (list, now, by) => list[(list.indexOf(now) + by + list.length) % list.length];
  if ("123".includes(event.key)) {
    const figure = shown(clip).find(one => one.dataset.key === event.key);
    const same = audio && audio.closest(".clip") === clip && !audio.ended;
    play(figure.querySelector("audio"), same ? audio.currentTime : 0);
  } else if (event.key === " " && audio && event.target.tagName !== "AUDIO") {
    if (audio.paused) audio.play(); else audio.pause();
    event.preventDefault();
  } else if (event.key === "j" || event.key === "k") {
    clip = step(clips, clip, event.key === "j" ? 1 : -1);
    clip.focus();
    clip.scrollIntoView({block: "nearest"});
  } else if (event.key === "[" || event.key === "]") {
    step(radios, radios.find(radio => radio.checked), event.key === "]" ? 1 : -1).click();
  }
});
showRate();
</script>
</html>
"""
)
