// "Knock it over": the strongest push survived, and the smallest sum of pushes that felled the pole.

import { $, element, stored, text } from "../dom.js";
import { fallen } from "../draw/cartpole.js";

const SURVIVED_STEPS = 100; // a push is survived if the pole stands two seconds later

export class Challenge {
  constructor({ send }) {
    this.bests = {};
    this.episode = 0;
    $("challenge-restart").onclick = () => send({ do: "reset", seed: null });
  }

  // Called with every frame. The latest result stays until the next one.
  take(frame, status) {
    if (frame.e !== this.episode) [this.episode, this.over, this.survived] = [frame.e, false, 0];
    const pushes = status.pushes.filter(({ step }) => step <= frame.k);
    const spent = pushes.reduce((sum, { force }) => sum + Math.abs(force), 0);
    for (const { step, force } of pushes) {
      if (frame.k >= step + SURVIVED_STEPS) this.survived = Math.max(this.survived, Math.abs(force));
    }
    text("challenge-spent", `${spent} N`);
    text("challenge-survived", this.survived ? `${this.survived} N` : "–");
    if (frame.o[0] && !this.over) this.end(frame, status, spent);
    this.showBest(status);
  }

  end(frame, status, spent) {
    this.over = true;
    if (!spent) return;
    const [player] = status.players;
    const link = shareLink({ seed: status.seed, version: player.version, pushes: status.pushes });
    $("challenge-link").href = link;
    $("challenge-link").hidden = altered(status);
    if (!fallen(frame.s[0])) {
      text("challenge-result", `It stood to the end and took ${spent} N.`);
    } else if (altered(status)) {
      text("challenge-result", `Down with ${spent} N, in an altered world: this does not count.`);
    } else {
      const [before] = this.best(status);
      const record = !before || spent < before;
      if (record) this.best(status, spent, link);
      text("challenge-result", `Down with ${spent} N${record ? ": your best so far" : ""}.`);
    }
  }

  // The best result against the version that plays, in newtons, and its replay; read from the storage once.
  best(status, ...better) {
    const of = key(status);
    if (better.length || !this.bests[of]) {
      this.bests[of] = ["", " replay"].map((name, index) => stored("localStorage", of + name, better[index]) || better[index] || "");
    }
    return [Number(this.bests[of][0]), this.bests[of][1]];
  }

  showBest(status) {
    const [force, link] = this.best(status);
    if (link !== $("challenge-best").dataset.link) {
      $("challenge-best").dataset.link = link;
      $("challenge-best").replaceChildren(link ? Object.assign(element("a"), { href: link, title: "Watch it again" }) : "");
    }
    const place = $("challenge-best").firstElementChild ?? $("challenge-best");
    place.textContent = force ? `${force} N` : "–";
  }
}

const key = (status) => `felled ${status.model} ${status.players[0]?.version}`;

const altered = ({ changes, altered: began, swapped }) => swapped || began || changes.length > 0;

// A link that plays the episode again.
export function shareLink({ seed, version, pushes }) {
  const query = new URLSearchParams({ seed, version, pushes: pushes.map(({ step, force }) => `${step}:${force}`).join() });
  return `${location.origin}${location.pathname}?${query}`;
}

// The episode of such a link, as a request; null without one.
export function sharedEpisode(search) {
  const query = new URLSearchParams(search);
  if (!query.has("seed")) return null;
  const pushes = (query.get("pushes") || "").split(",").filter(Boolean).map((text) => {
    const [step, force] = text.split(":").map(Number);
    return { step, force };
  });
  return { seed: Number(query.get("seed")), pushes, ...(query.has("version") && { version: query.get("version") }) };
}
