// "What it sees": observations of the version that plays beside the range of its training.

import { $, element } from "../dom.js";

const NAMES = { "CartPole-v1": ["Position, m", "Velocity, m/s", "Angle, rad", "Angular velocity, rad/s"] };
const SOURCES = { show: "In the show", requests: "In requests" };
const share = (part, all) => `${((100 * part) / all).toFixed(part && part / all < 0.1 ? 1 : 0)}%`;

export class InputsPanel {
  constructor({ api, page }) {
    Object.assign(this, { api, page });
    $("inputs").addEventListener("shown", () => this.refresh());
  }

  async refresh() {
    clearTimeout(this.timer);
    if ($("inputs").hidden) return;
    this.timer = setTimeout(() => this.refresh(), 2000);
    if (document.hidden) return;
    try {
      this.show(await this.api("api/seen"));
    } catch {
      // the page says that the server is gone; the timer tries again
    }
  }

  show({ version, sources }) {
    const used = sources.filter(({ rows }) => rows > 0);
    const unknown = used.some(({ outside }) => outside === null);
    $("inputs-hint").textContent = !used.length
      ? "Nothing yet."
      : unknown
        ? `Version ${version} does not contain the range of its training: it was exported before this was recorded.`
        : `Version ${version}. Each row spans the range of its training. Red values are outside of it, where its answers are guesses.`;
    $("inputs-sources").replaceChildren(...used.map((source) => this.source(source)));
  }

  source({ source, rows, outside, entries, actions, mean_gap: gap }) {
    const section = element("section");
    const title = element("h2", "", `${SOURCES[source]}: ${rows.toLocaleString("en")} observations`);
    if (outside !== null) title.append(element("span", outside ? "outside some" : "outside", `${share(outside, rows)} outside`));
    const names = NAMES[this.page.status?.players[0]?.env_id] ?? [];
    const chosen = Object.entries(actions).map(([action, count]) => `${action} ${share(count, rows)}`);
    section.append(
      title,
      ...entries.map((entry, index) => histogram(names[index] ?? `Entry ${index}`, entry)),
      element("p", "hint", `Actions: ${chosen.join(", ")}. Mean gap of the best two Q-values: ${gap.toPrecision(2)}.`),
    );
    return section;
  }
}

function histogram(name, { low, high, counts }) {
  const row = element("div", "inputs-entry");
  const bars = element("div", "inputs-bars");
  const most = Math.max(...counts);
  const all = counts.reduce((sum, count) => sum + count, 0);
  bars.setAttribute("role", "img");
  bars.setAttribute("aria-label", `${share(counts[0] + counts.at(-1), all)} of values outside ${low.toPrecision(2)} to ${high.toPrecision(2)}`);
  bars.append(...counts.map((count, index) => {
    const bar = element("i", index === 0 || index === counts.length - 1 ? "beyond" : "");
    bar.style.height = `${count ? Math.max(4, (100 * count) / most) : 0}%`; // a rare value is still visible
    return bar;
  }));
  row.append(element("span", "", name), element("span", "bound", low.toPrecision(2)), bars, element("span", "bound", high.toPrecision(2)));
  return row;
}
