// The picture in the page's style, and the instruments: Q-values, their trace, returns.

import { drawCartPole } from "./cartpole.js";

const COLOURS = ["--first", "--second", "--third", "--fourth", "--fifth", "--sixth"];

export const TRACED = 300; // steps: six seconds
const EPISODES = 60;

const values = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => values.clear());

// A custom property of the page, cached because a lookup makes the browser compute styles.
export function css(name) {
  if (!values.has(name)) values.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return values.get(name);
}

// Draws CartPole in the page's colours, as sharp as the screen, without the sky that the pole never reaches.
export function drawPole(canvas, state, options) {
  const names = ["background", "track", "cart", "pole", "axle", "guide", "push"];
  const colours = Object.fromEntries(names.map((name) => [name, css(`--${name}`)]));
  const ratio = Math.max(0.5, (canvas.clientWidth / 600) * (window.devicePixelRatio || 1));
  drawCartPole(canvas, state, { colours, ratio, height: 300, ...options });
}

// A return: without decimals if it is an integer, else with one.
export const short = (value) => (Number.isInteger(value) ? `${value}` : value.toFixed(1));

// Fits a canvas to its place on the page; returns its context and size in CSS pixels.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = `12px ${css("--mono")}`;
  return { context, width, height };
}

const small = (value) => String(Number(Math.abs(value).toPrecision(2)));

// The end of an axis: the smallest 1, 2 or 5 times a power of ten that is not below a value.
function axisEnd(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-5)));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999);
}

// The Q-value of an action that the mask does not allow is the least float32.
const allowed = (value) => value > -3.4e38;

// Which action the policy prefers. Of two, a bar grows from the middle to it; of more, each bar is its distance behind it.
export class Preference {
  constructor(root, names) {
    this.names = names;
    this.two = names.length === 2;
    root.classList.toggle("two", this.two);
    root.replaceChildren(...(this.two ? [0] : names).map((name, index) => {
      const row = Object.assign(document.createElement("div"), { className: "row" });
      row.innerHTML = '<span class="name"></span><span class="bar"><i></i></span><span class="name"></span>';
      const [first, last] = row.querySelectorAll(".name");
      [first.textContent, last.textContent] = this.two ? names : [name, ""];
      row.querySelector("i").className = this.two ? "" : `series-${index % COLOURS.length}`;
      return row;
    }));
    root.insertAdjacentHTML("beforeend", '<div class="axis"><span></span><span></span><span></span></div>');
    this.rows = [...root.querySelectorAll(".row")];
    this.ends = [...root.querySelectorAll(".axis span")];
  }

  // Shows Q-values and the chosen action on an axis up to `end`; returns a sentence like "prefers right by 0.004".
  show(values, action, end) {
    if (!values) return "";
    const behind = values.map((value) => (allowed(value) ? values[action] - value : null));
    const labels = this.two ? [small(end), "0"] : ["0", "behind the best by"];
    this.ends.forEach((place, index) => (place.textContent = labels[index] ?? small(end)));
    if (this.two) {
      const bar = this.rows[0].querySelector("i");
      bar.style.transform = `scaleX(${(action === 0 ? -1 : 1) * (behind[1 - action] / end)})`;
      this.rows[0].querySelectorAll(".name").forEach((name, index) => name.classList.toggle("chosen", index === action));
    } else {
      this.rows.forEach((row, index) => {
        row.querySelector("i").style.transform = `scaleX(${behind[index] / end})`;
        const distance = behind[index] === null ? "not allowed" : `−${small(behind[index])}`;
        row.querySelectorAll(".name")[1].textContent = index === action ? "best" : distance;
        row.classList.toggle("chosen", index === action);
      });
    }
    const others = behind.filter((value, index) => index !== action && value !== null);
    return others.length ? `prefers ${this.names[action]} by ${small(Math.min(...others))}` : `only ${this.names[action]} is allowed`;
  }
}

// A sample of a trace: of two actions right minus left, of more each one minus the best; null if one is not allowed.
export function sample(values, push = 0) {
  const best = Math.max(...values);
  const behind = values.map((value) => (allowed(value) ? value - best : null));
  return { lines: values.length > 2 ? behind : [behind.includes(null) ? null : values[1] - values[0]], push };
}

export function axisOf(samples) {
  return axisEnd(Math.max(...samples.flatMap(({ lines }) => lines.map(Math.abs)), 0));
}

// Of two actions the difference changes its sign at nearly every step: it is pale, below the mean of its last ten.
export function drawTrace(canvas, samples, end) {
  const { context, width, height } = prepare(canvas);
  if (samples.length < 2) return;
  const one = samples[0].lines.length === 1;
  const [low, high] = [-end, one ? end : 0];
  const margin = 56;
  const x = (index) => ((width - margin) * index) / (TRACED - 1);
  const y = (value) => 8 + (height - 16) * (1 - (value - low) / (high - low));
  context.strokeStyle = css("--line");
  context.fillStyle = css("--muted");
  context.textBaseline = "middle";
  for (const value of [low, (low + high) / 2, high]) {
    context.fillRect(0, Math.round(y(value)), width - margin, 0.5);
    context.fillText(`${value < 0 ? "−" : ""}${small(value)}`, width - margin + 6, y(value));
  }
  context.fillStyle = css("--push");
  samples.forEach(({ push }, index) => push && context.fillRect(x(index), 8, 2, height - 16));
  const draw = (values, colour, opacity) => {
    context.strokeStyle = colour;
    context.globalAlpha = opacity;
    context.lineWidth = 1.5;
    context.beginPath();
    let drawn = false; // a line has a gap where its action is not allowed
    values.forEach((value, index) => {
      if (value !== null) context[drawn ? "lineTo" : "moveTo"](x(index), y(value));
      drawn = value !== null;
    });
    context.stroke();
    context.globalAlpha = 1;
  };
  samples[0].lines.forEach((_, line) => {
    const values = samples.map(({ lines }) => lines[line]);
    if (!one) return draw(values, css(COLOURS[line % COLOURS.length]), 1);
    draw(values, css("--muted"), 0.25);
    draw(values.map((_, index) => mean(values.slice(Math.max(0, index - 9), index + 1))), css("--accent"), 1);
  });
}

export function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// One column an episode, the newest on the right; negative returns go down from zero.
export function drawHistory(canvas, returns, [low, high]) {
  const { context, width, height } = prepare(canvas);
  const shown = returns.slice(-EPISODES);
  const step = width / EPISODES;
  const y = (value) => 16 + ((height - 17) * (high - value)) / Math.max(high - low, 1e-3);
  context.fillStyle = css("--line");
  context.fillRect(0, y(0), width, 1);
  shown.forEach((value, index) => {
    context.fillStyle = css("--accent");
    context.fillRect(index * step, Math.min(y(0) - 2, y(value)), Math.max(2, step - 2), Math.max(2, Math.abs(y(0) - y(value))));
  });
  if (!shown.length) return;
  context.fillStyle = css("--muted");
  context.textBaseline = "top";
  context.fillText(short(shown.at(-1)), Math.min((shown.length - 1) * step, width - 40), 0);
}

// The return curve of each agent; of those that are solved in the colour of what is good.
export function drawCurves(canvas, agents) {
  const { context, width, height } = prepare(canvas);
  const points = agents.flatMap(({ curve }) => curve);
  const last = Math.max(1, ...points.map(([step]) => step));
  const [low, high] = [Math.min(0, ...points.map(([, value]) => value)), Math.max(1, ...points.map(([, value]) => value))];
  for (const { curve, state } of agents) {
    context.strokeStyle = css(state === "solved" ? "--good" : "--muted");
    context.beginPath();
    for (const [step, value] of curve) context.lineTo((width * step) / last, 18 + ((height - 20) * (high - value)) / (high - low));
    context.stroke();
  }
  context.fillStyle = css("--muted");
  context.textBaseline = "top";
  context.fillText(`return ${short(Math.round(high))}`, 0, 0);
}
