// A viewer's own time: pause, back through the last 30 s, full screen. The show goes on for others.

import { $, text } from "../dom.js";

const KEPT = 30_000; // milliseconds
const MOST = 300_000; // for a viewer that pauses longer
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

export class OwnTime {
  constructor({ changed }) {
    Object.assign(this, { changed, held: STILL.matches });
    this.clear();
    $("hold").onclick = () => this.hold(!this.held);
    $("now").onclick = () => this.live();
    $("back").oninput = () => {
      this.behind = -Number($("back").value);
      this.hold(true);
    };
    $("full").hidden = !document.fullscreenEnabled;
    $("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen());
    document.addEventListener("fullscreenchange", () => {
      $("full").setAttribute("aria-pressed", Boolean(document.fullscreenElement));
      changed();
    });
    this.say();
  }

  // Forgets the frames of another show.
  clear() {
    Object.assign(this, { frames: [], behind: 0 });
  }

  take(frame) {
    const at = performance.now();
    this.frames.push({ ...frame, at });
    if (this.held && this.frames.length > 1) this.behind += 1;
    const shown = this.frames[this.frames.length - 1 - this.behind].at;
    const oldest = Math.max(at - MOST, Math.min(at - KEPT, shown)); // what is held stays
    while (this.frames[0].at < oldest) this.frames.shift();
    this.behind = Math.min(this.behind, this.frames.length - 1);
  }

  // The shown frame, last, and those before it in its episode.
  recent(count) {
    const end = this.frames.length - this.behind;
    const episode = this.frames[end - 1]?.e;
    return this.frames.slice(Math.max(0, end - count), Math.max(0, end)).filter(({ e }) => e === episode);
  }

  hold(held) {
    this.held = held;
    this.say();
    this.changed();
  }

  live() {
    this.behind = 0;
    this.hold(false);
  }

  say() {
    text("hold", this.held ? "Play" : "Pause");
    $("now").disabled = !this.held && !this.behind;
    this.paint();
    $("back").setAttribute("aria-valuetext", $("behind").textContent);
    $("stage").classList.toggle("past", this.held || this.behind > 0);
  }

  paint() {
    const { frames, behind } = this;
    if (!frames.length) return;
    const ago = (frames.at(-1).at - frames[frames.length - 1 - behind].at) / 1000;
    $("back").min = 1 - frames.length;
    $("back").value = -behind;
    text("behind", behind ? `${ago.toFixed(1)} s ago` : this.held ? "paused" : "live");
  }
}
