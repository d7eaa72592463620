// Versions: choosing them, comparing two, and what became of each.

import { $ } from "../dom.js";
import { line } from "./loop.js";

const WHEN = { dateStyle: "medium", timeStyle: "short" };

// Values and texts of a menu of versions; the alias that plays comes first.
export function choices({ players, aliases, versions }) {
  const first = players[0]?.aliases[0];
  const sorted = Object.entries(aliases).sort(([a], [b]) => (b === first) - (a === first) || (a > b ? 1 : -1));
  const named = sorted.map(([alias, version]) => [alias, `${alias} (version ${version})`]);
  return [...named, ...versions.map((version) => [version, `version ${version}`])];
}

// Fills a menu; what was chosen stays chosen.
export function fill(select, options, index) {
  const text = JSON.stringify(options);
  if (select.dataset.options === text) return;
  const chosen = select.dataset.options && select.value;
  select.dataset.options = text;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  const kept = options.some(([value]) => value === chosen);
  select.value = kept ? chosen : (options[Math.min(index, options.length - 1)]?.[0] ?? "");
}

export class Versions {
  constructor({ compare, page, api }) {
    Object.assign(this, { page, api });
    $("compare").onsubmit = (event) => {
      event.preventDefault();
      compare(`${$("first").value},${$("second").value}`);
    };
    $("alone").onclick = () => compare("");
    $("versions").addEventListener("shown", () => this.list());
  }

  show(status) {
    const cartpole = status.players.every(({ env_id: env }) => env.startsWith("CartPole"));
    $("compare").hidden = !cartpole || (status.versions.length < 2 && this.page.versions === "");
    $("alone").hidden = this.page.versions === "";
    [$("first"), $("second")].forEach((select, index) => fill(select, choices(status), index));
    this.list();
  }

  async list() {
    if ($("versions").hidden) return;
    const entries = await this.api("api/history").catch(() => []); // the page says that the server is gone
    $("history").replaceChildren(...entries.map((entry) => line(entry, new Date(entry.at * 1000).toLocaleString("en", WHEN))));
  }
}
