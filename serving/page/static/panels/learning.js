// "See it learn": poles side by side, of the agents of a training that runs, else of milestones of the version that plays.

import { $, element, offer, text } from "../dom.js";
import { drawCurves, drawPole, short } from "../draw/charts.js";
import { lately } from "../draw/cartpole.js";

const MOST = 6; // milestones
const PAUSE_STEPS = 75; // before the episodes are repeated
const FPS = 50;

export class LearningPanel {
  constructor({ api }) {
    Object.assign(this, { api, version: null, milestones: [], seen: { why: "-" }, poles: [], position: 0, running: false });
    $("learning").addEventListener("shown", () => this.open());
    $("learning-play").onclick = () => this.play(!this.playing);
    this.play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  // Listens for trainings while the server is there.
  listen(on) {
    this.events?.close();
    if (!on) return;
    this.events = new EventSource("api/training");
    this.events.onmessage = ({ data }) => this.hear(JSON.parse(data));
  }

  hear(seen) {
    this.seen = seen;
    const { why, title, said, url, population } = seen;
    document.body.classList.toggle("trains", !why);
    $("training").hidden = Boolean(why);
    text("tab-learning", why ? "See it learn" : "Watch it learn, now");
    text("training-title", title);
    text("training-said", said);
    $("training-run").hidden = !url;
    $("training-run").href = url;
    $("training-done").value = population ? population.updates / population.max_updates : 0;
    this.renew();
  }

  // Asks for the milestones of another version.
  async show({ players: [player] }) {
    if (!player || player.version === this.version) return;
    Object.assign(this, { version: player.version, milestones: [] });
    const way = player.env_id.startsWith("CartPole") ? await this.api("api/learning").catch(() => null) : { milestones: [] };
    if (player.version !== this.version) return; // another version took over meanwhile
    if (!way) this.version = null; // no answer: ask again with the next status
    if (way?.version === this.version) this.milestones = way.milestones;
    this.renew();
  }

  renew() {
    offer($("tab-learning"), !this.seen.why || this.milestones.length > 0);
    this.open();
  }

  play(playing) {
    this.playing = playing;
    text("learning-play", playing ? "Pause" : "Play");
  }

  // Fetches episodes that are not shown yet, and plays while the tab is shown.
  async open() {
    if ($("learning").hidden) return;
    if (!this.running) this.tick(null);
    const key = this.seen.poles || (this.milestones.length && `version ${this.version}`);
    if (!key || key === this.placed) return;
    this.placed = key;
    text("learning-trouble", "");
    try {
      const poles = await (this.seen.poles ? this.agents(this.seen.population) : this.progress());
      if (key === this.placed) this.place(poles);
    } catch (error) {
      this.placed = null;
      text("learning-trouble", `${error.message}. Choose this tab again to try once more.`);
    }
  }

  async agents(population) {
    const { poles } = await this.api("api/training/poles");
    return poles.map((pole) => {
      const { state, mean_return: mean } = population.agents[pole.agent];
      const note = mean === null ? state : `${state}, mean return ${short(mean)}`;
      return { ...pole, name: `Agent ${pole.agent}`, note, pushes: [], good: state === "solved" };
    });
  }

  // Some milestones, and the version that plays.
  progress() {
    const count = Math.min(MOST, this.milestones.length + 1);
    return Promise.all(Array.from({ length: count }, async (_, at) => {
      const index = Math.round((at * this.milestones.length) / (count - 1));
      const { updates, mean_return: mean } = this.milestones[index] ?? {};
      const { observations, terminated, pushes, world } = await this.api(`api/learning/${index}`);
      const name = updates ? `After ${updates} updates` : updates === 0 ? "Untrained" : "The version that plays";
      const note = mean === undefined ? "" : `mean return ${short(Math.round(mean * 10) / 10)}`;
      const length = [world.length ?? 0.5].flat()[0];
      return { states: observations.map(([x, , theta]) => [x, theta]), terminated, pushes, length, name, note };
    }));
  }

  place(poles) {
    this.position = 0;
    this.poles = poles.map((pole) => {
      const figure = element("figure", pole.good ? "good" : "");
      const [canvas, caption] = [element("canvas"), element("figcaption")];
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `The cart and its pole: ${pole.name}`);
      const ends = pole.terminated ? `falls after ${pole.states.length - 1} steps` : "stands to the end";
      caption.append(element("strong", "", pole.name), element("span", "", ends), element("span", "", pole.note));
      figure.append(canvas, caption);
      return { ...pole, figure, canvas };
    });
    $("learning-strip").replaceChildren(...this.poles.map(({ figure }) => figure));
  }

  tick(now) {
    this.running = !$("learning").hidden;
    if (!this.running) return;
    if (this.playing) this.position += (Math.min(now - (this.before ?? now), 240) * FPS) / 1000;
    if (this.position > Math.max(...this.poles.map(({ states }) => states.length)) + PAUSE_STEPS) this.position = 0;
    this.poles.forEach((pole) => this.draw(pole));
    if (this.seen.population) drawCurves($("training-curves"), this.seen.population.agents);
    this.before = now;
    requestAnimationFrame((next) => this.tick(next));
  }

  draw({ figure, canvas, states, terminated, pushes, length }) {
    const step = Math.min(Math.floor(this.position), states.length - 1);
    const [x, theta] = states[step];
    figure.classList.toggle("fell", terminated && step === states.length - 1);
    drawPole(canvas, [x, 0, theta, 0], { push: lately(pushes, step), length });
  }
}
