// The panels below the players: versions to compare, and replays.

import { short } from "./charts.js";

const $ = (id) => document.getElementById(id);

export class Panels {
  constructor({ api, compare, toast, page }) {
    Object.assign(this, { api, toast, page });
    $("compare").onsubmit = (event) => {
      event.preventDefault();
      compare(`${$("first").value},${$("second").value}`);
    };
    $("alone").onclick = () => compare("");
    $("replay").onsubmit = (event) => {
      event.preventDefault();
      const version = $("replay-version").value;
      this.play({ seed: Number($("replay-seed").value), ...this.world(), ...(version && { version }) });
    };
    $("keep").onclick = () => {
      const { status } = this.page;
      if (!status?.players.length) return this.toast("nothing plays yet");
      const { seed, pushes, initial_world: world, changes, players } = status;
      if (status.swapped) return this.toast("another version took over in this episode: restart it, then keep it");
      return this.play({ seed, pushes, world, changes, version: players[0].version });
    };
  }

  show(status) {
    const first = status.players[0]?.aliases[0]; // list the alias that plays first
    const sorted = Object.entries(status.aliases).sort(([a], [b]) => (b === first) - (a === first) || (a > b ? 1 : -1));
    const aliases = sorted.map(([alias, version]) => [alias, `${alias} (v${version})`]);
    const versions = status.versions.map((version) => [version, `version ${version}`]);
    $("compare").hidden = versions.length < 2 && !this.page.versions;
    const options = JSON.stringify([aliases, versions]);
    if (options === this.options) return;
    this.options = options;
    this.fill($("first"), [...aliases, ...versions], 0);
    this.fill($("second"), [...aliases, ...versions], 1);
    this.fill($("replay-version"), [["", "current"], ...aliases, ...versions], 0);
  }

  fill(select, options, index) {
    const chosen = select.value;
    select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
    const kept = options.some(([value]) => value === chosen) && select.dataset.filled;
    select.value = kept ? chosen : (options[Math.min(index, options.length - 1)]?.[0] ?? "");
    select.dataset.filled = "yes";
  }

  // A replay is played in the changed world; without changes, in the version's own world.
  world() {
    const { world, changed } = this.page.status ?? {};
    return Object.keys(changed ?? {}).length ? { world } : {};
  }

  async play(request) {
    $("replay-error").textContent = "playing…";
    try {
      await this.api("api/episodes", { method: "POST", body: JSON.stringify(request) });
      this.listReplays(await this.api("api/episodes"));
      $("replay-error").textContent = "";
    } catch (error) {
      $("replay-error").textContent = error.message;
    }
  }

  listReplays(replays) {
    $("replays").replaceChildren(...replays.map((replay) => {
      const row = document.createElement("li");
      const what = document.createElement("span");
      what.className = "described";
      const pushes = replay.pushes ? `, ${replay.pushes} ${replay.pushes === 1 ? "push" : "pushes"}` : "";
      const changes = replay.changes ? ", world changed" : "";
      what.textContent = `Version ${replay.version}, seed ${replay.seed}${pushes}${changes}: return ${short(replay.episodic_return)}`;
      const files = document.createElement("span");
      files.className = "files";
      files.append(...["html", "gif", "mp4", "webm", "json"].map((kind) => {
        const link = document.createElement("a");
        link.href = `api/episodes/${replay.id}.${kind}`;
        link.textContent = kind === "html" ? "watch" : kind;
        if (kind === "html") link.target = "_blank";
        return link;
      }));
      row.append(what, files);
      return row;
    }));
  }
}
