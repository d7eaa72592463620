// One policy on the page: its picture, and what it thinks.

import { $, element } from "../dom.js";
import { axisOf, drawHistory, drawPole, drawTrace, mean, Preference, sample, short } from "../draw/charts.js";
import { fallen, lately } from "../draw/cartpole.js";

const CARTPOLES_MOST = 500;

export class Player {
  constructor(description) {
    this.root = $("player").content.firstElementChild.cloneNode(true);
    this.mind = $("mind").content.firstElementChild.cloneNode(true);
    this.actions = description.action_meanings;
    this.cartpole = description.env_id.startsWith("CartPole");
    this.preference = new Preference(this.find(".preference"), this.actions);
    this.history = [];
    this.find(".legend").hidden = !this.cartpole;
  }

  find(selector) {
    return this.root.querySelector(selector) ?? this.mind.querySelector(selector);
  }

  describe(status, player, mlflow) {
    this.find(".version").textContent = this.find(".whose").textContent = `Version ${player.version}`;
    this.find(".aliases").replaceChildren(...player.aliases.map((alias) => element("span", "", alias)));
    const run = element(mlflow && player.experiment_id ? "a" : "span", "", player.run_id && `run ${player.run_id.slice(0, 8)}`);
    if (run.localName === "a") run.href = `${mlflow}/#/experiments/${player.experiment_id}/runs/${player.run_id}`;
    run.title = Object.entries(player.tags).map(([name, value]) => `${name} = ${value}`).join("\n") || player.run_id;
    this.find(".run").replaceChildren(run); // a file without MLflow has no run
    this.find(".seed").textContent = status.seed;
    const returns = (this.history = player.history);
    this.find(".mean").textContent = returns.length ? `mean of ${returns.length}: ${mean(returns).toFixed(1)}` : "no undisturbed episode yet";
  }

  paint(frames, index, { length, status }) {
    const frame = frames.at(-1);
    if (!frame?.s[index]) return;
    const told = frames.filter(({ p }) => p).map(({ k, p }) => ({ step: k - 1, force: p }));
    const pushes = frame.e === status.episode ? status.pushes : told; // at 2x and more, frames leave out steps
    const [push, believed] = [lately(pushes, frame.k), frame.b[index]];
    if (this.cartpole) drawPole(this.find(".picture"), frame.s[index], { length, push, believed });
    const said = { episode: frame.e, step: frame.k, return: short(frame.r[index]), ending: this.ending(frame.r[index], frame.s[index]) };
    for (const [name, value] of Object.entries(said)) this.find(`.${name}`).textContent = value;
    this.find(".belief").hidden = !believed;
    this.find(".ending").hidden = !frame.o[index];
  }

  ending(episodicReturn, state) {
    if (!this.cartpole) return `Episode over: return ${short(episodicReturn)}`;
    return fallen(state) ? `${fallen(state)} after ${episodicReturn} steps` : "Balanced to the end";
  }

  // Gymnasium's pictures, or the page's own; one picture while a viewer pauses.
  showPixels(on, held, stream) {
    const [image, canvas] = [this.find(".pixels"), this.find(".picture")];
    const pixels = on && !(held && this.cartpole);
    const source = pixels ? `api/${held ? "frame.png" : "live.mjpeg"}?again=${stream}` : "";
    image.alt = `${this.cartpole ? "The same step" : "This step"}, rendered by Gymnasium`;
    image.hidden = !pixels;
    canvas.hidden = pixels;
    if (source === this.source) return;
    this.source = source;
    if (source) image.src = source;
    else image.removeAttribute("src");
  }
}

// What players think, on the same axes.
export function paintMinds(players, frames) {
  const returns = players.flatMap(({ history }) => history);
  const traces = players.map((player, index) => {
    const played = frames.filter(({ q, o, k, r }) => q[index] && !(o[index] && player.cartpole && k > r[index])); // not after its end
    return played.map(({ q, p }) => sample(q[index], p));
  });
  const end = Math.max(...traces.map(axisOf));
  const frame = frames.at(-1);
  players.forEach((player, index) => {
    player.find(".action").textContent = frame ? player.preference.show(frame.q[index], frame.a[index], end) : "";
    drawTrace(player.find(".trace"), traces[index], end);
    const ceiling = player.cartpole ? CARTPOLES_MOST : 0;
    drawHistory(player.find(".history"), player.history, [Math.min(0, ...returns), Math.max(0, ceiling, ...returns)]);
  });
}
