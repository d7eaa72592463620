// "See it learn": one episode, played side by side by networks of some milestones and the one that plays.

import { $, element, offer, text } from "../dom.js";
import { drawPole, short } from "../draw/charts.js";
import { lately } from "../draw/cartpole.js";

const MOST = 6;
const PAUSE_STEPS = 75; // before the episode is repeated

export class LearningPanel {
  constructor({ api }) {
    Object.assign(this, { api, version: null, poles: [], position: 0, before: null, running: false });
    $("learning").addEventListener("shown", () => this.open());
    $("learning-play").onclick = () => this.play(!this.playing);
    this.play(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  }

  // Offers the tab if the version that plays has milestones.
  async show({ players: [player] }) {
    if (!player || player.version === this.version) return;
    Object.assign(this, { version: player.version, poles: [] });
    const way = player.env_id.startsWith("CartPole") ? await this.api("api/learning").catch(() => null) : { milestones: [] };
    if (player.version !== this.version) return; // another version took over meanwhile
    if (!way) this.version = null; // no answer: ask again with the next status
    const offered = way?.version === this.version && way.milestones.length > 0;
    if (offered) this.place(way.milestones);
    offer($("tab-learning"), offered);
    if (offered) this.open();
  }

  // A pole for each of some milestones, and one for the version that plays.
  place(milestones) {
    const count = Math.min(MOST, milestones.length + 1);
    this.position = 0;
    this.poles = [...Array(count).keys()].map((at) => {
      const index = Math.round((at * milestones.length) / (count - 1));
      const { updates, mean_return: mean } = milestones[index] ?? {};
      const name = updates ? `After ${updates} updates` : updates === 0 ? "Untrained" : "The version that plays";
      const figure = element("figure");
      const [canvas, caption, ends] = [element("canvas"), element("figcaption"), element("span")];
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `The cart and its pole: ${name}`);
      caption.append(element("strong", "", name), ends, element("span", "", mean === undefined ? "" : `mean return ${short(Math.round(mean * 10) / 10)}`));
      figure.append(canvas, caption);
      return { index, figure, canvas, ends };
    });
    $("learning-strip").replaceChildren(...this.poles.map(({ figure }) => figure));
  }

  play(playing) {
    this.playing = playing;
    text("learning-play", playing ? "Pause" : "Play");
  }

  // Fetches the episodes that are missing, and plays while the tab is shown.
  async open() {
    if ($("learning").hidden) return;
    if (!this.running) this.tick(null);
    text("learning-trouble", "");
    try {
      for (const pole of this.poles.filter(({ replay }) => !replay)) {
        pole.replay = await this.api(`api/learning/${pole.index}`);
        const { terminated, actions } = pole.replay;
        pole.ends.textContent = terminated ? `falls after ${actions.length} steps` : "stands to the end";
      }
    } catch (error) {
      text("learning-trouble", `${error.message}. Choose this tab again to try once more.`);
    }
  }

  tick(now) {
    this.running = !$("learning").hidden;
    if (!this.running) return;
    const replays = this.poles.map(({ replay }) => replay);
    if (replays.length && replays.every(Boolean)) {
      if (this.playing) this.position += (Math.min(now - (this.before ?? now), 240) * replays[0].fps) / 1000;
      if (this.position > Math.max(...replays.map(({ actions }) => actions.length)) + PAUSE_STEPS) this.position = 0;
      this.poles.forEach((pole) => this.draw(pole));
    }
    this.before = now;
    requestAnimationFrame((next) => this.tick(next));
  }

  draw({ figure, canvas, replay }) {
    const step = Math.min(Math.floor(this.position), replay.actions.length);
    figure.classList.toggle("fell", replay.terminated && step === replay.actions.length);
    drawPole(canvas, replay.observations[step], { push: lately(replay.pushes, step), length: replay.world.length ?? 0.5 });
  }
}
