// Physics, versions to compare and replays: the panels beneath the players.

import { short } from "./charts.js";

const $ = (id) => document.getElementById(id);
const DEFAULTS = { length: 0.5, masspole: 0.1, gravity: 9.8, force_mag: 10 };
const SLIDERS = [
  // name, label, least, most, step, unit, what to multiply by to show
  ["length", "Pole length", 0.1, 2, 0.05, "m", 2],
  ["masspole", "Pole mass", 0.01, 2, 0.01, "kg", 1],
  ["gravity", "Gravity", 0, 30, 0.1, "m/s²", 1],
  ["force_mag", "Force of an action", 1, 50, 0.5, "N", 1],
];

export class Panels {
  constructor({ send, api, compare, toast, page }) {
    Object.assign(this, { send, api, toast, page });
    this.physics = { ...DEFAULTS };
    $("physics").replaceChildren(...SLIDERS.map((slider) => this.slider(slider)));
    $("physics-default").onclick = () => send({ do: "physics", physics: DEFAULTS });
    $("compare").onsubmit = (event) => {
      event.preventDefault();
      compare(`${$("first").value},${$("second").value}`);
    };
    $("alone").onclick = () => compare("");
    $("replay").onsubmit = (event) => {
      event.preventDefault();
      const version = $("replay-version").value;
      this.play({ seed: Number($("replay-seed").value), physics: this.physics, ...(version && { version }) });
    };
    $("keep").onclick = () => {
      const { status } = this.page;
      if (!status?.players.length) return this.toast("nothing plays yet");
      const { seed, pushes, initial_physics: physics, changes, players } = status;
      if (status.swapped) return this.toast("another version took over in this episode: restart it, then keep it");
      return this.play({ seed, pushes, physics, changes, version: players[0].version });
    };
  }

  slider([name, label, least, most, step]) {
    const element = document.createElement("label");
    element.innerHTML = `${label} <output></output><input type="range">`;
    const input = element.querySelector("input");
    Object.assign(input, { id: `physics-${name}`, min: least, max: most, step, value: DEFAULTS[name] });
    input.oninput = () => {
      this.physics[name] = Number(input.value);
      this.send({ do: "physics", physics: this.physics });
    };
    return element;
  }

  show(status) {
    this.physics = { ...status.physics };
    for (const [name, , , , step, unit, factor] of SLIDERS) {
      const input = $(`physics-${name}`);
      if (document.activeElement !== input || !input.matches(":active")) input.value = status.physics[name];
      const digits = step < 0.1 ? 2 : 1;
      input.previousElementSibling.textContent = `${(status.physics[name] * factor).toFixed(digits)} ${unit}`;
    }
    $("physics-default").disabled = Object.keys(DEFAULTS).every((name) => status.physics[name] === DEFAULTS[name]);
    const first = status.players[0]?.aliases[0]; // what plays is the natural first choice
    const sorted = Object.entries(status.aliases).sort(([a], [b]) => (b === first) - (a === first) || (a > b ? 1 : -1));
    const aliases = sorted.map(([alias, version]) => [alias, `${alias} (v${version})`]);
    const versions = status.versions.map((version) => [version, `version ${version}`]);
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

  async play(request) {
    $("replay-error").textContent = "playing…";
    try {
      await this.api("/api/episodes", { method: "POST", body: JSON.stringify(request) });
      this.listReplays(await this.api("/api/episodes"));
      $("replay-error").textContent = "";
    } catch (error) {
      $("replay-error").textContent = error.message;
    }
  }

  listReplays(replays) {
    $("replays").replaceChildren(...replays.map((replay) => {
      const row = document.createElement("li");
      const what = document.createElement("span");
      what.className = "what";
      const pushes = replay.pushes ? `, ${replay.pushes} ${replay.pushes === 1 ? "push" : "pushes"}` : "";
      const changes = replay.changes ? ", physics changed" : "";
      what.textContent = `Version ${replay.version}, seed ${replay.seed}${pushes}${changes}: return ${short(replay.episodic_return)}`;
      const files = document.createElement("span");
      files.className = "files";
      files.append(...["html", "gif", "mp4", "webm", "json"].map((kind) => {
        const link = document.createElement("a");
        link.href = replay.files[kind];
        link.textContent = kind === "html" ? "watch" : kind;
        if (kind === "html") link.target = "_blank";
        return link;
      }));
      row.append(what, files);
      return row;
    }));
  }
}
