// "See it learn": the same episode, played by the network of each training milestone.

import { css, short } from "./charts.js";
import { drawCartPole } from "./cartpole.js";

const $ = (id) => document.getElementById(id);
const PAUSE_STEPS = 50; // before the episode is repeated

export class LearningPanel {
  constructor({ api }) {
    Object.assign(this, { api, version: null, replays: new Map(), position: 0, before: null, running: false });
    $("milestone").oninput = () => this.choose(Number($("milestone").value));
    $("learning").ontoggle = () => $("learning").open && this.open();
  }

  // Shows the panel if the version that plays has milestones; called with every status.
  async show(status) {
    const [player] = status.players;
    if (!player || player.version === this.version) return;
    Object.assign(this, { version: player.version, way: null, replay: null, replays: new Map() });
    $("learning").hidden = true;
    if (!player.env_id.startsWith("CartPole")) return;
    const way = await this.api("api/learning").catch(() => null); // without an answer there is no panel
    if (!way?.milestones.length || way.version !== this.version) return;
    this.way = way;
    $("milestone").max = way.milestones.length;
    $("learning").hidden = false;
    if ($("learning").open) this.open();
  }

  open() {
    if (this.way && !this.replay) this.choose(Number(($("milestone").value = 0)));
    if (!this.running) this.tick(null);
  }

  async choose(index) {
    const { milestones } = this.way;
    const milestone = milestones[index];
    if (!this.replays.has(index)) this.replays.set(index, this.api(`api/learning/${index}`));
    const replay = await this.replays.get(index);
    if (Number($("milestone").value) !== index) return; // the slider was moved meanwhile
    Object.assign(this, { replay, position: 0 });
    const when = !milestone ? "The version that plays" : milestone.updates ? `After ${milestone.updates} updates` : "Untrained";
    const mean = milestone ? `; mean return ${short(Math.round(milestone.mean_return * 10) / 10)}` : "";
    const end = replay.terminated ? `falls after ${replay.actions.length} steps` : "stands to the end";
    $("milestone-text").textContent = `${when}: ${end}${mean}`;
    $("milestone").setAttribute("aria-valuetext", $("milestone-text").textContent);
  }

  tick(now) {
    this.running = $("learning").open && Boolean(this.way);
    if (!this.running) return;
    if (this.replay) {
      const last = this.replay.actions.length;
      const step = Math.min(Math.floor(this.position), last);
      const push = this.replay.pushes.findLast(({ step: at }) => at < step && step <= at + 12)?.force ?? 0;
      const canvas = $("learning-picture");
      const colours = Object.fromEntries(
        ["background", "track", "cart", "pole", "axle", "guide", "push"].map((name) => [name, css(`--${name}`)]));
      drawCartPole(canvas, this.replay.observations[step], {
        colours, push, length: this.replay.world.length ?? 0.5, ratio: window.devicePixelRatio || 1,
      });
      this.position += (Math.min(now - (this.before ?? now), 240) * this.replay.fps) / 1000;
      if (this.position > last + PAUSE_STEPS) this.position = 0;
    }
    this.before = now;
    requestAnimationFrame((next) => this.tick(next));
  }
}
