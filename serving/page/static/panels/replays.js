// Replays: episodes that were played or kept, and their files.

import { $, element, text, toast } from "../dom.js";
import { short } from "../draw/charts.js";
import { choices, fill } from "./versions.js";

const FILES = { html: "page", gif: "gif", mp4: "mp4", webm: "webm", json: "data" };

export class Replays {
  constructor({ api, page }) {
    Object.assign(this, { api, page });
    $("replay").onsubmit = (event) => {
      event.preventDefault();
      const version = $("replay-version").value;
      this.play({ seed: Number($("replay-seed").value), ...this.world(), ...(version && { version }) });
    };
    $("keep").onclick = () => {
      const { status } = this.page;
      if (!status?.players.length) return toast("nothing plays yet");
      const { seed, pushes, initial_world: world, changes, players } = status;
      if (status.swapped) return toast("another version took over in this episode: restart it, then keep it");
      return this.play({ seed, pushes, world, changes, version: players[0].version });
    };
  }

  show(status) {
    fill($("replay-version"), [["", "current"], ...choices(status)], 0);
  }

  // A replay is played in the changed world, if it is changed.
  world() {
    const { world, changed } = this.page.status ?? {};
    return Object.keys(changed ?? {}).length ? { world } : {};
  }

  async play(request) {
    text("replay-error", "playing…");
    try {
      await this.api("api/episodes", { method: "POST", body: JSON.stringify(request) });
      await this.list();
      text("replay-error", "");
    } catch (error) {
      text("replay-error", error.message);
    }
  }

  async list() {
    const replays = await this.api("api/episodes");
    $("replays").replaceChildren(...replays.map((replay) => {
      const row = element("li");
      const pushes = replay.pushes ? `, ${replay.pushes} ${replay.pushes === 1 ? "push" : "pushes"}` : "";
      const changes = replay.changes ? ", world changed" : "";
      const what = `Version ${replay.version}, seed ${replay.seed}${pushes}${changes}`;
      const files = element("span", "files");
      files.append(...Object.entries(FILES).map(([kind, name]) => {
        const link = element("a", "", name);
        link.href = `api/episodes/${replay.id}.${kind}`;
        link.setAttribute("aria-label", `${name} of version ${replay.version}, seed ${replay.seed}`);
        if (kind === "html") link.target = "_blank";
        return link;
      }));
      row.append(element("span", "described", `${what}: return ${short(replay.episodic_return)}`), files);
      return row;
    }));
  }
}
