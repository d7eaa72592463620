// Plays one recorded episode from data in the page. Inlined into the page after draw/.

import { axisOf, drawPole, drawTrace, Preference, sample, short, TRACED } from "./draw/charts.js";
import { lately } from "./draw/cartpole.js";

const byId = (id) => document.getElementById(id);
const replay = JSON.parse(byId("data").textContent);
const last = replay.actions.length;
const pictures = JSON.parse(byId("pictures").textContent).map((src) => Object.assign(new Image(), { src }));
const preference = new Preference(byId("preference"), replay.action_meanings);
const forces = new Map();
replay.pushes.forEach(({ step, force }) => forces.set(step, (forces.get(step) || 0) + force));
const samples = replay.q_values.map((values, step) => sample(values, forces.get(step)));
let position = 0;
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
let before = null;

function showStep() {
  const whole = Math.min(Math.floor(position), last);
  const index = Math.max(0, whole - 1);
  const canvas = byId("picture");
  const push = lately(replay.pushes, whole);
  if (pictures.length) {
    showPicture(canvas, pictures[Math.floor((whole * pictures.length) / (last + 1))]);
  } else {
    const { world } = replay.changes.findLast(({ step }) => step < whole) ?? replay;
    const length = [world.length ?? 0.5].flat();
    drawPole(canvas, replay.observations[whole], { length: (length[0] + length.at(-1)) / 2, push });
  }
  const shown = samples.slice(Math.max(0, index + 1 - TRACED), index + 1);
  const end = axisOf(shown);
  byId("action").textContent = preference.show(replay.q_values[index], replay.actions[index], end);
  drawTrace(byId("trace"), shown, end);
  byId("step").textContent = whole;
  byId("return").textContent = short(replay.rewards.slice(0, whole).reduce((sum, reward) => sum + reward, 0));
  byId("push").textContent = push ? `${push} N` : "–";
  byId("scrub").value = whole;
  byId("play").textContent = playing ? "Pause" : whole === last ? "Again" : "Play";
}

function showPicture(canvas, picture) {
  if (!picture.complete) {
    picture.onload = showStep;
    return;
  }
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  canvas.getContext("2d").drawImage(picture, 0, 0);
}

function toggle() {
  if (!playing && position >= last) position = 0;
  playing = !playing;
  showStep();
}

function tick(now) {
  if (playing && before !== null) {
    const steps = Math.min(now - before, 240) * (replay.fps / 1000) * Number(byId("speed").value);
    position = Math.min(position + steps, last);
    if (position >= last) playing = false;
    showStep();
  }
  before = now;
  requestAnimationFrame(tick);
}

byId("home").href = "../../";
byId("home").hidden = !location.protocol.startsWith("http"); // a file has no server to go back to
byId("seed").textContent = replay.seed;
byId("scrub").max = last;
byId("scrub").oninput = () => {
  position = Number(byId("scrub").value);
  playing = false;
  showStep();
};
byId("play").onclick = toggle;
document.addEventListener("keydown", (event) => {
  if (event.key === " " && !event.target.matches("button, select, a")) {
    event.preventDefault();
    toggle();
  }
});
addEventListener("resize", showStep);
showStep();
requestAnimationFrame(tick);
