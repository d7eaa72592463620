// The world of all shows: changed by one word, or field by field.

import { $, toast } from "../dom.js";

const NOMINAL = {
  length: 0.5, masspole: 0.1, masscart: 1, gravity: 9.8, force_mag: 10, tau: 0.02, wind: 0, push_force: 0,
  push_interval: 100, action_delay: 0, sensor_bias: [0, 0, 0, 0], sensor_noise: [0, 0, 0, 0],
};

// Of each button the field that it changes, its new value, and whether it is in effect.
const WORDS = {
  reverse: ["force_mag", (world) => -world.force_mag, (world, home) => world.force_mag * home.force_mag < 0],
  bend: ["sensor_bias", () => [0, 0, Math.PI / 36, 0], (world, home) => world.sensor_bias[2] !== home.sensor_bias[2]],
  lag: ["action_delay", () => 3, (world, home) => world.action_delay !== home.action_delay],
  wind: ["wind", () => 3, (world, home) => world.wind !== home.wind],
  short: ["length", () => 0.1, (world, home) => world.length < home.length],
  strong: ["force_mag", (world) => 30 * Math.sign(world.force_mag), (world, home) => Math.abs(world.force_mag) > Math.abs(home.force_mag)],
  gravity: ["gravity", () => 30, (world, home) => world.gravity > home.gravity],
};

// A world with all fields; a range is replaced by its middle.
export function whole(values) {
  const world = { ...NOMINAL };
  for (const [name, value] of Object.entries(values)) world[name] = Array.isArray(NOMINAL[name]) ? value.map(middle) : middle(value);
  return world;
}

const middle = (value) => (Array.isArray(value) ? (value[0] + value[1]) / 2 : value);

export class WorldPanel {
  constructor({ api }) {
    Object.assign(this, { api, changed: {}, busy: false, next: null });
    for (const [id, [field, say, said]] of Object.entries(WORDS)) {
      $(`word-${id}`).onclick = () => {
        const { [field]: _, ...rest } = this.changed;
        this.put(said(this.world, this.home) ? rest : { ...rest, [field]: say(this.world) });
      };
    }
    $("world-right").onclick = () => this.put({});
    this.sliders = [...$("world-sliders").querySelectorAll("input")].map((input) => this.slider(input));
    this.show({ world: {}, home: {}, changed: {} });
  }

  // A slider's id names its field of the world, and its entry in a list.
  slider(input) {
    const [, name, entry] = input.id.split("-");
    input.oninput = () => {
      const value = Number(input.value);
      this.put({ ...this.changed, [name]: entry ? this.world[name].map((old, index) => (index === Number(entry) ? value : old)) : value });
    };
    return { input, name, entry };
  }

  // Sends one request at a time; of the changes made meanwhile, only the latest is sent.
  async put(values) {
    this.changed = values;
    if (this.busy) {
      this.next = values;
      return;
    }
    this.busy = true;
    try {
      await this.api("api/world", { method: "PUT", body: JSON.stringify(values) });
    } catch (error) {
      this.next = null;
      toast(error.message);
    }
    this.busy = false;
    const next = this.next;
    this.next = null;
    if (next) await this.put(next);
  }

  show({ world, home, changed }) {
    [this.world, this.home] = [whole(world), whole(home)];
    if (!this.busy) this.changed = changed;
    for (const [id, [, , said]] of Object.entries(WORDS)) $(`word-${id}`).setAttribute("aria-pressed", said(this.world, this.home));
    for (const { input, name, entry } of this.sliders) {
      const value = entry ? this.world[name][entry] : this.world[name];
      if (!input.matches(":active")) input.value = value;
      const { factor = 1, unit } = input.dataset;
      const step = input.step * factor;
      const text = `${(value * factor).toFixed(step >= 1 ? 0 : step < 0.1 ? 2 : 1)} ${unit}`;
      input.previousElementSibling.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }
    $("world-right").disabled = Object.keys(changed).length === 0;
  }
}
