// The world of all shows: changed by one word, or field by field.

const $ = (id) => document.getElementById(id);
const NOMINAL = {
  length: 0.5, masspole: 0.1, masscart: 1, gravity: 9.8, force_mag: 10, tau: 0.02, wind: 0, push_force: 0,
  push_interval: 100, action_delay: 0, sensor_bias: [0, 0, 0, 0], sensor_noise: [0, 0, 0, 0],
};
const DEGREES = 180 / Math.PI;

// id, word, the field that it changes, its new value, and whether it is in effect.
const WORDS = [
  ["reverse", "Reverse the motor", "force_mag", (world) => -world.force_mag, (world, home) => world.force_mag * home.force_mag < 0],
  ["bend", "Bend the sensor by 5°", "sensor_bias", () => [0, 0, 5 / DEGREES, 0], (world, home) => world.sensor_bias[2] !== home.sensor_bias[2]],
  ["lag", "Lag of 60 ms", "action_delay", () => 3, (world, home) => world.action_delay !== home.action_delay],
  ["wind", "Wind", "wind", () => 3, (world, home) => world.wind !== home.wind],
  ["short", "Short pole", "length", () => 0.1, (world, home) => world.length < home.length],
  ["strong", "Strong motor", "force_mag", (world) => 30 * Math.sign(world.force_mag), (world, home) => Math.abs(world.force_mag) > Math.abs(home.force_mag)],
  ["gravity", "Triple gravity", "gravity", () => 30, (world, home) => world.gravity > home.gravity],
];

const SLIDERS = [
  // field, its entry, label, least, most, step, unit, factor for display
  ["length", null, "Pole length", 0.05, 2, 0.05, "m", 2],
  ["masspole", null, "Pole mass", 0.01, 2, 0.01, "kg", 1],
  ["masscart", null, "Cart mass", 0.1, 10, 0.1, "kg", 1],
  ["gravity", null, "Gravity", 0, 50, 0.1, "m/s²", 1],
  ["force_mag", null, "Force of an action", -50, 50, 0.5, "N", 1],
  ["action_delay", null, "Lag of actions", 0, 10, 1, "steps", 1],
  ["tau", null, "Time of a step", 0.002, 0.1, 0.002, "ms", 1000],
  ["wind", null, "Wind", -10, 10, 0.1, "N", 1],
  ["push_force", null, "Random pushes", 0, 200, 5, "N", 1],
  ["push_interval", null, "Push interval", 10, 500, 10, "steps", 1],
  ["sensor_bias", 0, "Position reads off by", -1, 1, 0.05, "m", 1],
  ["sensor_bias", 1, "Speed reads off by", -1, 1, 0.05, "m/s", 1],
  ["sensor_bias", 2, "Angle reads off by", -0.2, 0.2, 0.005, "°", DEGREES],
  ["sensor_bias", 3, "Turning reads off by", -1, 1, 0.05, "rad/s", 1],
  ["sensor_noise", 0, "Noise on position", 0, 0.5, 0.01, "m", 1],
  ["sensor_noise", 1, "Noise on speed", 0, 0.5, 0.01, "m/s", 1],
  ["sensor_noise", 2, "Noise on angle", 0, 0.2, 0.005, "°", DEGREES],
  ["sensor_noise", 3, "Noise on turning", 0, 0.5, 0.01, "rad/s", 1],
];

// A world with all fields; a range is replaced by its middle.
export function whole(values) {
  const world = { ...NOMINAL };
  for (const [name, value] of Object.entries(values)) {
    if (Array.isArray(NOMINAL[name])) world[name] = value.map(middle);
    else world[name] = middle(value);
  }
  return world;
}

function middle(value) {
  return Array.isArray(value) ? (value[0] + value[1]) / 2 : value;
}

export class WorldPanel {
  constructor({ api, toast }) {
    Object.assign(this, { api, toast, changed: {}, busy: false, next: null });
    this.buttons = WORDS.map(([id, word, field, say, said]) => {
      const button = document.createElement("button");
      button.id = `word-${id}`;
      button.textContent = word;
      button.onclick = () => {
        const { [field]: _, ...rest } = this.changed;
        this.put(said(this.world, this.home) ? rest : { ...rest, [field]: say(this.world) });
      };
      return button;
    });
    $("world-words").prepend(...this.buttons);
    $("world-right").onclick = () => this.put({});
    $("world-sliders").replaceChildren(...SLIDERS.map((slider) => this.slider(slider)));
    this.show({ world: {}, home: {}, changed: {} });
  }

  slider([name, entry, label, least, most, step]) {
    const element = document.createElement("label");
    element.innerHTML = `${label} <output></output><input type="range">`;
    const input = element.querySelector("input");
    Object.assign(input, { id: `world-${name}${entry ?? ""}`, min: least, max: most, step });
    input.oninput = () => {
      let value = Number(input.value);
      if (entry !== null) value = this.world[name].map((old, index) => (index === entry ? value : old));
      this.put({ ...this.changed, [name]: value });
    };
    return element;
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
      this.toast(error.message);
    }
    this.busy = false;
    const next = this.next;
    this.next = null;
    if (next) await this.put(next);
  }

  show({ world, home, changed }) {
    [this.world, this.home] = [whole(world), whole(home)];
    if (!this.busy) this.changed = changed;
    this.buttons.forEach((button, index) => {
      button.setAttribute("aria-pressed", WORDS[index].at(-1)(this.world, this.home));
    });
    for (const [name, entry, , , , step, unit, factor] of SLIDERS) {
      const input = $(`world-${name}${entry ?? ""}`);
      const value = entry === null ? this.world[name] : this.world[name][entry];
      if (!input.matches(":active")) input.value = value;
      const digits = step * factor >= 1 ? 0 : step * factor < 0.1 ? 2 : 1;
      input.previousElementSibling.textContent = `${(value * factor).toFixed(digits)} ${unit}`;
    }
    $("world-right").disabled = Object.keys(changed).length === 0;
  }
}
