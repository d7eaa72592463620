// "Knock it over": the strongest push that the policy survived, and the smallest sum of pushes that felled it.

import { fallen } from "./cartpole.js";

const $ = (id) => document.getElementById(id);
const SURVIVED_STEPS = 100; // a push is survived if the pole stands two seconds later

export class Challenge {
  constructor({ send, page }) {
    this.page = page;
    this.episode = 0;
    $("challenge-restart").onclick = () => send({ do: "reset", seed: null });
  }

  // Updates the score of the present episode; called with every frame.
  take(frame, status) {
    if (frame.e !== this.episode) {
      [this.episode, this.over, this.survived] = [frame.e, false, 0];
      $("challenge-result").textContent = "";
      $("challenge-link").hidden = true;
    }
    const pushes = status.pushes.filter(({ step }) => step <= frame.k);
    const spent = pushes.reduce((sum, { force }) => sum + Math.abs(force), 0);
    for (const { step, force } of pushes) {
      if (frame.k >= step + SURVIVED_STEPS) this.survived = Math.max(this.survived, Math.abs(force));
    }
    $("challenge-spent").textContent = `${spent} N`;
    $("challenge-survived").textContent = this.survived ? `${this.survived} N` : "–";
    if (frame.o[0] && !this.over) this.end(frame, status, spent);
    $("challenge-best").textContent = this.best(status) ? `${this.best(status)} N` : "–";
  }

  end(frame, status, spent) {
    this.over = true;
    if (!spent) return;
    const [player] = status.players;
    $("challenge-link").href = shareLink({ seed: status.seed, version: player.version, pushes: status.pushes });
    $("challenge-link").hidden = altered(status);
    if (!fallen(frame.s[0])) {
      $("challenge-result").textContent = `It stood to the end and took ${spent} N.`;
    } else if (altered(status)) {
      $("challenge-result").textContent = `Down with ${spent} N, in an altered world: this does not count.`;
    } else {
      const record = !this.best(status) || spent < this.best(status);
      if (record) localStorage.setItem(key(status), spent);
      $("challenge-result").textContent = `Down with ${spent} N${record ? ": your best so far" : ""}.`;
    }
  }

  best(status) {
    return Number(localStorage.getItem(key(status))) || 0;
  }
}

const key = (status) => `felled ${status.model} ${status.players[0]?.version}`;

const altered = ({ changes, altered: began, swapped }) => swapped || began || changes.length > 0;

// A link to this server that plays the episode again from its seed and pushes.
export function shareLink({ seed, version, pushes }) {
  const query = new URLSearchParams({ seed, version, pushes: pushes.map(({ step, force }) => `${step}:${force}`).join() });
  return `${location.origin}${location.pathname}?${query}`;
}

// The episode in the page's address, as a request for POST /api/episodes; null without one.
export function sharedEpisode(search) {
  const query = new URLSearchParams(search);
  if (!query.has("seed")) return null;
  const pushes = (query.get("pushes") || "").split(",").filter(Boolean).map((text) => {
    const [step, force] = text.split(":").map(Number);
    return { step, force };
  });
  return { seed: Number(query.get("seed")), pushes, ...(query.has("version") && { version: query.get("version") }) };
}
