// What happened: changes of the world, what was noticed, how it heals, and the seconds between.

import { $, element, text } from "../dom.js";

const SETTLED = 60; // seconds: then the title tells the present

export class LoopPanel {
  constructor() {
    this.clock = 0; // the server's clock relative to this browser's, seconds
    setInterval(() => this.loop && this.showElapsed(), 1000);
  }

  show({ loop }) {
    $("loop").hidden = !loop; // a comparison has none
    this.loop = loop;
    if (!loop) return;
    this.clock = Date.now() / 1000 - loop.now;
    text("loop-trouble", loop.trouble);
    text("loop-undoing", loop.undoing?.text ?? "");
    text("loop-hint", loop.hint);
    const list = $("loop-timeline");
    list.hidden = !loop.entries.length;
    list.replaceChildren(...loop.entries.map((entry, index) => line(entry, index && `+${seconds(entry.at - loop.entries[index - 1].at)}`)));
    this.showElapsed();
    if (loop.entries.length === this.listed) return; // a reader may have scrolled
    this.listed = loop.entries.length;
    $("loop-body").scrollTop = $("loop-body").scrollHeight;
  }

  // The title, and the time since the first entry, up to now while the next one is awaited.
  showElapsed() {
    const { entries, settles, state, waits } = this.loop;
    const now = Date.now() / 1000 - this.clock;
    const last = entries.at(-1)?.at;
    const title = settles && now - last > SETTLED ? "All is as it was trained for" : this.loop.title;
    text("loop-title", title);
    text("news", title);
    $("loop").dataset.state = state;
    $("news").hidden = state === "calm" || state === "over";
    const past = (waits ? now : last) - entries[0]?.at || 0;
    text("loop-elapsed", waits ? `${seconds(past)} so far` : state === "over" && past ? `${seconds(past)} in all` : "");
  }
}

// A line of a timeline: its name, when, and what there is to know.
export function line({ name, text, kind, progress, links }, when) {
  const item = element("li", kind);
  item.append(element("strong", "", name), " ", element("span", "after", when || ""), " ", element("span", "text", text));
  if (typeof progress === "number") {
    const bar = Object.assign(document.createElement("progress"), { value: progress });
    bar.setAttribute("aria-label", `${name}: ${Math.round(100 * progress)}%`);
    item.append(bar);
  }
  for (const [word, href] of Object.entries(links)) {
    if (!/^(https?:|\?)/.test(href)) continue;
    const target = href.startsWith("?") ? "" : "_blank";
    item.append(Object.assign(element("a", "", word), { href, target, ariaLabel: `${word}: ${name}` }), " ");
  }
  return item;
}

function seconds(value) {
  if (value >= 600) return `${Math.round(value / 60)} min`;
  return value < 10 ? `${Math.max(0, value).toFixed(1)} s` : `${Math.round(value)} s`;
}
