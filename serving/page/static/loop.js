// The timeline of the closed loop: change of the world, drift, and stages of the adaptation, with the seconds between.

const $ = (id) => document.getElementById(id);
const NAMES = {
  started: "A run began", experience: "Experience read", identified: "World identified", memory: "Looked in memory",
  training: "Training", gate: "Gate", promoted: "Promoted", swapped: "Swapped", recovered: "Recovered",
  "as predicted": "Calm again", undone: "Undone", "plays as it is": "Nothing undone", refused: "Nothing promoted", waiting: "Waits for a person",
  "rolled back": "Rolled back", failed: "Failed",
};
const GOOD = new Set(["recovered", "as predicted"]);
const BAD = new Set(["refused", "rolled back", "failed"]);

export class LoopPanel {
  constructor() {
    this.clock = 0; // the server's clock relative to this browser's, seconds
    setInterval(() => this.status && this.showElapsed(), 1000);
  }

  show({ loop, changed, changed_at: changes }) {
    this.status = loop;
    const broken = Object.keys(changed ?? {}).length > 0;
    $("loop").hidden = !loop || !(loop.drift || broken);
    if ($("loop").hidden) return;
    this.clock = Date.now() / 1000 - loop.now;
    const { drift, over, stages, heals, trouble, playing, switches } = loop;
    const lasts = Boolean(drift) && !over;
    $("loop").dataset.state = lasts ? "drift" : drift ? "over" : "changed";
    $("loop-title").textContent = this.headline(loop);
    $("loop-trouble").textContent = trouble;
    $("loop-playing").hidden = !lasts || !playing;
    $("loop-playing").textContent = playing ? `${playing.text[0].toUpperCase()}${playing.text.slice(1)}.` : "";
    this.entries = drift ? timeline(drift, [...stages, ...switches.map(chosen)], changes) : changes.slice(-1).map(change);
    this.open = lasts && heals && !BAD.has(this.entries.at(-1).stage);
    $("loop-timeline").replaceChildren(...this.entries.map((entry, index) => this.item(entry, this.entries[index - 1])));
    this.showElapsed();
  }

  headline({ drift, over, stages }) {
    if (!drift) return "The world was changed. No drift is noticed yet.";
    const found = drift.finding[0].toUpperCase() + drift.finding.slice(1);
    if (!over) return `Drift: ${drift.finding}`;
    const end = stages.findLast(({ stage }) => GOOD.has(stage));
    return end?.stage === "recovered" ? `Healed. ${found}, and the policy has learned it.` : `Over. What was noticed: ${drift.finding}.`;
  }

  item(entry, before) {
    const item = document.createElement("li");
    item.className = GOOD.has(entry.stage) ? "good" : BAD.has(entry.stage) ? "bad" : "";
    item.innerHTML = '<strong></strong> <span class="after"></span><span class="text"></span>';
    item.querySelector("strong").textContent = entry.name;
    item.querySelector(".after").textContent = before ? `+${seconds(entry.at - before.at)}` : "";
    item.querySelector(".text").textContent = item.title = entry.text; // the style cuts long text
    if (typeof entry.progress === "number" && entry === this.entries.at(-1)) {
      const bar = Object.assign(document.createElement("progress"), { value: entry.progress });
      bar.setAttribute("aria-label", `${entry.name}: ${Math.round(100 * entry.progress)}%`);
      item.append(bar);
    }
    for (const [name, url] of Object.entries(entry.links ?? {})) {
      if (!/^https?:/.test(url)) continue;
      item.append(Object.assign(document.createElement("a"), { href: url, textContent: name, target: "_blank", rel: "noopener" }), " ");
    }
    return item;
  }

  // The time since the first entry; it counts up while the next stage is awaited.
  showElapsed() {
    if (!this.entries?.length) return;
    const end = this.open ? Date.now() / 1000 - this.clock : this.entries.at(-1).at;
    const past = end - this.entries[0].at;
    $("loop-elapsed").textContent = this.open ? `${seconds(past)} so far` : this.status.over && past ? `${seconds(past)} in all` : "";
  }
}

function timeline(drift, stages, changes) {
  const known = stages.map((stage) => ({ ...stage, name: NAMES[stage.stage] ?? stage.stage }));
  const before = changes.filter(({ at }) => at <= drift.noticed_at).slice(-1).map(change);
  const later = changes.filter(({ at }) => at > drift.noticed_at).map(change);
  const noticed = { stage: "noticed", name: "Noticed", at: drift.noticed_at, text: `by version ${drift.version}’s steps` };
  return [...before, noticed, ...[...known, ...later].sort((a, b) => a.at - b.at)];
}

function chosen({ name, text, at }) {
  return { stage: name ? "undone" : "plays as it is", at, text };
}

function change({ at, right }) {
  return { stage: "changed", name: right ? "Put right" : "Changed", at, text: "by a spectator" };
}

function seconds(value) {
  if (value >= 600) return `${Math.round(value / 60)} min`;
  return value < 10 ? `${Math.max(0, value).toFixed(1)} s` : `${Math.round(value)} s`;
}
