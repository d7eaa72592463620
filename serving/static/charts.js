// The instruments: Q-value bars, their scrolling trace, and the returns of past episodes.

export const COLOURS = ["--first", "--second", "--third", "--fourth", "--fifth", "--sixth"];

const values = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => values.clear());

// A custom property of the page, looked up once: asking for it makes the browser compute styles.
export function css(name) {
  if (!values.has(name)) values.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return values.get(name);
}

// A return: whole where it is whole, else with one decimal.
export function short(value) {
  return Number.isInteger(value) ? `${value}` : value.toFixed(1);
}

// Scales a canvas to its place on the page and the screen's density; returns its context and size in CSS pixels.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `11px ${css("--mono")}`;
  return { context, width, height };
}

// A bar an action, on the scale of what was seen lately: the gap between actions is what decides.
export class Bars {
  constructor(list, names) {
    this.rows = names.map((name, index) => {
      const row = document.createElement("li");
      row.innerHTML = '<span class="name"></span><span class="bar"><i></i></span><output></output>';
      row.querySelector(".name").textContent = name;
      row.querySelector("i").className = `series-${index % COLOURS.length}`;
      return row;
    });
    list.replaceChildren(...this.rows);
    this.low = this.high = null;
  }

  show(values, action) {
    if (!values) return;
    const [low, high] = [Math.min(...values), Math.max(...values)];
    this.low = this.low === null ? low : Math.min(low, this.low * 0.99 + low * 0.01);
    this.high = this.high === null ? high : Math.max(high, this.high * 0.99 + high * 0.01);
    const span = Math.max(this.high - this.low, 1e-3);
    this.rows.forEach((row, index) => {
      row.querySelector("i").style.transform = `scaleX(${0.06 + (0.94 * (values[index] - this.low)) / span})`;
      row.querySelector("output").textContent = values[index].toFixed(2);
      row.classList.toggle("chosen", index === action);
    });
  }
}

// The last `length` Q-values of every action.
export class Trace {
  constructor(canvas, length = 300) {
    this.canvas = canvas;
    this.length = length;
    this.clear();
  }

  clear() {
    this.samples = [];
  }

  add(values, push = 0) {
    if (!values) return;
    this.samples.push({ values, push });
    if (this.samples.length > this.length) this.samples.shift();
  }

  draw() {
    const { context, width, height } = prepare(this.canvas);
    if (this.samples.length < 2) return;
    const all = this.samples.flatMap((sample) => sample.values);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    const span = Math.max(high - low, 1e-3);
    const margin = 46;
    const x = (index) => ((width - margin) * index) / (this.length - 1);
    const y = (value) => 8 + (height - 16) * (1 - (value - low) / span);
    context.strokeStyle = css("--line");
    context.fillStyle = css("--muted");
    context.lineWidth = 1;
    context.textBaseline = "middle";
    for (const value of [low, (low + high) / 2, high]) {
      context.beginPath();
      context.moveTo(0, Math.round(y(value)) + 0.5);
      context.lineTo(width - margin, Math.round(y(value)) + 0.5);
      context.stroke();
      context.fillText(value.toFixed(span < 0.5 ? 2 : span < 20 ? 1 : 0), width - margin + 6, y(value));
    }
    context.fillStyle = css("--push");
    this.samples.forEach(({ push }, index) => push && context.fillRect(x(index), 8, 2, height - 16));
    for (let action = 0; action < this.samples[0].values.length; action++) {
      context.strokeStyle = css(COLOURS[action % COLOURS.length]);
      context.lineWidth = 1.5;
      context.beginPath();
      this.samples.forEach(({ values }, index) => context.lineTo(x(index), y(values[action])));
      context.stroke();
    }
  }
}

// One column an episode, the newest at the right, up from zero or, where returns are negative, down from it.
export function drawHistory(canvas, returns, ceiling, slots = 40) {
  const { context, width, height } = prepare(canvas);
  const shown = returns.slice(-slots);
  const [low, high] = [Math.min(0, ...shown), Math.max(0, ceiling, ...shown)];
  const step = width / slots;
  const y = (value) => 16 + ((height - 17) * (high - value)) / Math.max(high - low, 1e-3);
  context.fillStyle = css("--line");
  context.fillRect(0, y(0), width, 1);
  shown.forEach((value, index) => {
    context.fillStyle = ceiling && value >= ceiling ? css("--good") : css("--accent");
    context.fillRect(index * step, Math.min(y(0) - 2, y(value)), Math.max(2, step - 2), Math.max(2, Math.abs(y(0) - y(value))));
  });
  if (shown.length) {
    context.fillStyle = css("--muted");
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText(short(shown.at(-1)), Math.min((shown.length - 1) * step, width - 40), 0);
  }
}
