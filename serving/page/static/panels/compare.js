// Choosing versions, and comparing two of them.

import { $, offer } from "../dom.js";

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

export class Compare {
  constructor({ compare, page }) {
    this.page = page;
    $("compare").onsubmit = (event) => {
      event.preventDefault();
      compare(`${$("first").value},${$("second").value}`);
    };
    $("alone").onclick = () => compare("");
  }

  show(status) {
    const cartpole = status.players.every(({ env_id: env }) => env.startsWith("CartPole"));
    offer($("tab-compare"), cartpole && (status.versions.length > 1 || this.page.versions !== ""));
    $("alone").hidden = this.page.versions === "";
    [$("first"), $("second")].forEach((select, index) => fill(select, choices(status), index));
  }
}
