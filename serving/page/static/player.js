// One policy on the page: its picture and its instruments.

import { css, Preference, short, Trace } from "./charts.js";
import { drawCartPole, fallen } from "./cartpole.js";

export class Player {
  constructor(template, description) {
    this.root = template.content.firstElementChild.cloneNode(true);
    this.actions = description.action_meanings;
    this.cartpole = description.env_id.startsWith("CartPole");
    this.preference = new Preference(this.find(".preference"), this.actions);
    this.trace = new Trace(this.find(".trace"));
    this.over = false;
    this.episode = 0;
    this.push = { force: 0, left: 0 };
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  // Shows version, aliases and run.
  describe(status, player, mlflow) {
    this.find(".version").textContent = `Version ${player.version}`;
    this.find(".aliases").replaceChildren(...player.aliases.map((alias) => {
      const badge = document.createElement("span");
      badge.textContent = alias;
      return badge;
    }));
    const run = document.createElement(mlflow && player.experiment_id ? "a" : "span");
    if (run.localName === "a") run.href = `${mlflow}/#/experiments/${player.experiment_id}/runs/${player.run_id}`;
    run.textContent = player.run_id && `run ${player.run_id.slice(0, 8)}`; // a file without MLflow has no run
    run.title = Object.entries(player.tags).map(([name, value]) => `${name} = ${value}`).join("\n") || player.run_id;
    this.find(".run").replaceChildren(run);
    this.find(".seed").textContent = status.seed;
    const mean = player.history.reduce((sum, value) => sum + value, 0) / player.history.length;
    this.find(".mean").textContent = player.history.length ? `mean of ${player.history.length}: ${mean.toFixed(1)}` : "no undisturbed episode yet";
  }

  take(frame, index) {
    if (frame.e !== this.episode) {
      this.episode = frame.e;
      this.trace.clear();
    }
    this.over = frame.o[index];
    if (!this.over || !this.cartpole || frame.k <= frame.r[index]) this.trace.add(frame.q[index], frame.p);
    if (frame.p) this.push = { force: frame.p, left: 12 };
  }

  paint(frame, index, length) {
    if (!frame?.s[index]) return;
    const colours = {
      background: css("--background"), track: css("--track"), cart: css("--cart"), pole: css("--pole"), axle: css("--axle"),
      guide: css("--guide"), push: css("--push"),
    };
    const canvas = this.find(".picture");
    const ratio = Math.max(1, (canvas.clientWidth / 600) * (window.devicePixelRatio || 1));
    const push = this.push.left-- > 0 ? this.push.force : 0;
    if (this.cartpole) drawCartPole(canvas, frame.s[index], { colours, length, push, ratio, believed: frame.b[index] });
    this.find(".action").textContent = this.preference.show(frame.q[index], frame.a[index], this.trace.draw());
    const action = this.actions[frame.a[index]];
    this.find(".episode").textContent = frame.e;
    this.find(".step").textContent = frame.k;
    this.find(".return").textContent = short(frame.r[index]);
    this.find(".ending").hidden = !this.over;
    this.find(".ending").textContent = this.ending(frame.r[index], frame.s[index]);
    canvas.setAttribute("aria-label", `Cart and pole, step ${frame.k}, ${this.over ? "over" : `pushing ${action}`}`);
  }

  ending(episodicReturn, state) {
    if (!this.cartpole) return `Episode over: return ${short(episodicReturn)}`;
    return fallen(state) ? `${fallen(state)} after ${episodicReturn} steps` : "Balanced to the end";
  }

  showPixels(on) {
    const image = this.find(".pixels");
    if (on === !image.hidden) return;
    image.hidden = !on;
    this.find(".picture").hidden = on;
    image.alt = `${this.cartpole ? "The same step" : "This step"}, rendered by Gymnasium`;
    if (on) image.src = "api/live.mjpeg";
    else image.removeAttribute("src");
  }
}
