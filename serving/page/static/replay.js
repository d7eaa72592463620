// Plays one recorded episode from data in the page. Inlined into the page after cartpole.js and charts.js.

import { css, Preference, short, Trace } from "./charts.js";
import { drawCartPole } from "./cartpole.js";

const byId = (id) => document.getElementById(id);
const replay = JSON.parse(byId("data").textContent);
const last = replay.actions.length;
const pictures = JSON.parse(byId("pictures").textContent).map((src) => Object.assign(new Image(), { src }));
const preference = new Preference(byId("preference"), replay.action_meanings);
const trace = new Trace(byId("trace"));
const forces = new Map();
replay.pushes.forEach(({ step, force }) => forces.set(step, (forces.get(step) || 0) + force));
let position = 0;
let playing = true;
let before = null;

function showStep() {
  const whole = Math.min(Math.floor(position), last);
  const index = Math.max(0, whole - 1);
  const colours = {
    background: css("--background"), track: css("--track"), cart: css("--cart"), pole: css("--pole"), axle: css("--axle"),
    guide: css("--guide"), push: css("--push"),
  };
  const canvas = byId("picture");
  const ratio = Math.max(1, (canvas.clientWidth / 600) * (window.devicePixelRatio || 1));
  let push = 0;
  for (let step = Math.max(0, whole - 10); step < whole; step++) push = forces.get(step) || push;
  if (pictures.length) {
    showPicture(canvas, pictures[Math.floor((whole * pictures.length) / (last + 1))]);
  } else {
    const { world } = replay.changes.findLast(({ step }) => step < whole) ?? replay;
    const length = [world.length ?? 0.5].flat();
    drawCartPole(canvas, replay.observations[whole], { colours, length: (length[0] + length.at(-1)) / 2, push, ratio });
  }
  trace.clear();
  for (let step = Math.max(0, index - 299); step <= index; step++) trace.add(replay.q_values[step], forces.get(step));
  byId("action").textContent = preference.show(replay.q_values[index], replay.actions[index], trace.draw());
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

byId("seed").textContent = replay.seed;
byId("subtitle").textContent = `run ${replay.run_id}`;
byId("scrub").max = last;
byId("scrub").oninput = () => {
  position = Number(byId("scrub").value);
  playing = false;
  showStep();
};
byId("play").onclick = toggle;
document.addEventListener("keydown", (event) => {
  if (event.key === " " && !event.target.matches("button, select")) {
    event.preventDefault();
    toggle();
  }
});
addEventListener("resize", showStep);
showStep();
requestAnimationFrame(tick);
