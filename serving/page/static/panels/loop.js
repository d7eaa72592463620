// What happened: changes of the world, what was noticed, how it heals, and the seconds between.

import { $, element, text } from "../dom.js";

const NAMES = {
  noticed: "The server noticed", started: "A run began", experience: "Read what happened", identified: "Knows the new world",
  memory: "Looked for a network that knows it", rehearsed: "Rehearsed the old one", confirmed: "Healed without a training",
  training: "Training a network", gate: "Testing it against the old one",
  promoted: "It is better", swapped: "A new network plays", recovered: "Healed", "as predicted": "Calm again",
  refused: "The old one stays", waiting: "Waits for a person", "rolled back": "Taken back", failed: "Failed",
};
const GOOD = new Set(["recovered", "confirmed", "as predicted"]);
const BAD = new Set(["refused", "rolled back", "failed"]);
const IDLE = "Break its world: the server notices from the steps alone, finds out what has changed, and heals.";
const ALONE = "Under make stack, a run also trains a network for this world, and promotes it if it passes.";
const AWAITED = "A run is being started. It takes some seconds.";
const SETTLED = 60; // seconds: then the title tells the present

export class LoopPanel {
  constructor() {
    this.clock = 0; // the server's clock relative to this browser's, seconds
    setInterval(() => this.status && this.showElapsed(), 1000);
  }

  show({ loop, changed, changed_at: changes = [] }) {
    $("loop").hidden = !loop; // a comparison has none
    this.status = loop;
    if (!loop) return;
    this.clock = Date.now() / 1000 - loop.now;
    this.broken = Object.keys(changed ?? {}).length > 0;
    const { drift, over, stages, heals, trouble, undoing } = loop;
    this.lasts = Boolean(drift) && !over;
    const known = drift ? timeline(drift, stages, changes) : this.broken ? changes.slice(-1).map(change) : [];
    const linked = new Set(); // each place is linked once
    this.entries = known.map((entry) => ({
      ...entry,
      links: Object.fromEntries(Object.entries(entry.links ?? {}).filter(([, url]) => !linked.has(url) && linked.add(url))),
    }));
    this.open = this.lasts && heals && !BAD.has(this.entries.at(-1).stage);
    this.state = this.lasts ? "drift" : this.broken && this.entries.at(-1).stage === "changed" ? "changed" : drift ? "over" : "calm";
    this.later = drift ? changes.filter(({ at }) => at > drift.noticed_at).length : 0;
    text("loop-trouble", trouble);
    $("loop-undoing").hidden = !undoing?.text;
    text("loop-undoing", undoing?.text ?? "");
    text("loop-hint", this.hint());
    this.showTimeline();
    this.showElapsed();
  }

  headline() {
    const { drift, stages } = this.status;
    if (this.state === "drift") return `Noticed: ${drift.finding}`;
    if (this.state === "changed") return "Changed. Not noticed yet";
    const past = this.state === "over" && Date.now() / 1000 - this.clock - this.entries.at(-1).at;
    if (past === false || (past > SETTLED && !this.broken)) return "All is as it was trained for";
    if ((stages.findLast(({ stage }) => GOOD.has(stage))?.stage ?? "as predicted") === "as predicted") return "Calm again";
    return `Healed. ${drift.finding[0].toUpperCase()}${drift.finding.slice(1)}, and the version that plays balances.`;
  }

  hint() {
    if (!this.entries.length) return IDLE;
    if (!this.lasts) return "";
    const older = this.later ? `Changed ${this.later === 1 ? "once more" : `${this.later} times`} since. ` : "";
    return older + (this.status.heals ? (this.status.stages.length ? "" : AWAITED) : ALONE);
  }

  showTimeline() {
    const list = $("loop-timeline");
    list.hidden = !this.entries.length;
    list.replaceChildren(...this.entries.map((entry, index) => this.item(entry, this.entries[index - 1])));
    if (this.entries.length === this.listed) return; // a reader may have scrolled
    this.listed = this.entries.length;
    $("loop-body").scrollTop = $("loop-body").scrollHeight;
  }

  item(entry, before) {
    const item = element("li", GOOD.has(entry.stage) ? "good" : BAD.has(entry.stage) ? "bad" : "");
    item.append(
      element("strong", "", entry.name), " ", element("span", "after", before ? `+${seconds(entry.at - before.at)}` : ""), " ",
      element("span", "text", entry.text));
    if (typeof entry.progress === "number" && entry === this.entries.at(-1)) {
      const bar = Object.assign(document.createElement("progress"), { value: entry.progress });
      bar.setAttribute("aria-label", `${entry.name}: ${Math.round(100 * entry.progress)}%`);
      item.append(bar);
    }
    for (const [name, url] of Object.entries(entry.links ?? {})) {
      if (!/^https?:/.test(url)) continue;
      item.append(Object.assign(element("a", "", name), { href: url, target: "_blank", rel: "noopener" }), " ");
    }
    return item;
  }

  // The title, and the time since the first entry, up to now while the next one is awaited.
  showElapsed() {
    const title = this.headline();
    if ($("loop-title").textContent !== title) $("loop-title").textContent = $("news").textContent = title;
    $("loop").dataset.state = this.state;
    $("news").hidden = this.state === "calm" || this.state === "over";
    const end = this.open ? Date.now() / 1000 - this.clock : this.entries.at(-1)?.at;
    const past = end - this.entries[0]?.at || 0;
    text("loop-elapsed", this.open ? `${seconds(past)} so far` : this.status.over && past ? `${seconds(past)} in all` : "");
  }
}

function timeline(drift, stages, changes) {
  const known = stages.map((stage) => ({ ...stage, name: NAMES[stage.stage] ?? stage.stage }));
  const before = changes.filter(({ at }) => at <= drift.noticed_at).slice(-1).map(change);
  const later = changes.filter(({ at }) => at > drift.noticed_at).map(change);
  const noticed = { stage: "noticed", name: NAMES.noticed, at: drift.noticed_at, text: `from the steps of version ${drift.version}` };
  return [...before, noticed, ...[...known, ...later].sort((a, b) => a.at - b.at)];
}

function change({ at, right }) {
  return { stage: "changed", name: right ? "The world was put right" : "The world was changed", at, text: "by a viewer" };
}

function seconds(value) {
  if (value >= 600) return `${Math.round(value / 60)} min`;
  return value < 10 ? `${Math.max(0, value).toFixed(1)} s` : `${Math.round(value)} s`;
}
