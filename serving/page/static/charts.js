// The instruments: Q-value bars, their scrolling trace, and the returns of past episodes.

export const COLOURS = ["--first", "--second", "--third", "--fourth", "--fifth", "--sixth"];

const values = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => values.clear());

// A custom property of the page, cached because a lookup makes the browser compute styles.
export function css(name) {
  if (!values.has(name)) values.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return values.get(name);
}

// A return: without decimals if it is an integer, else with one.
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

// A difference of Q-values with two significant digits.
export function small(value) {
  return String(Number(Math.abs(value).toPrecision(2)));
}

// The end of an axis: the smallest 1, 2 or 5 times a power of ten that is not below a value.
function axisEnd(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1e-5)));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= value * 0.999);
}

// Whether the environment's action mask allows the action of a Q-value; that of another action is the least float32.
function allowed(value) {
  return value > -3.4e38;
}

// Shows which action the policy prefers and by how much, on an axis with labelled ends. For two actions, a bar grows from
// the middle towards the preferred one; for more, each bar is the distance of an action from the best.
export class Preference {
  constructor(root, names) {
    this.names = names;
    this.root = root;
    this.two = names.length === 2;
    root.classList.toggle("two", this.two);
    root.replaceChildren(...(this.two ? [0] : names).map((name, index) => {
      const row = document.createElement("div");
      row.className = "row";
      row.innerHTML = '<span class="name"></span><span class="bar"><i></i></span><span class="name"></span>';
      const [first, last] = row.querySelectorAll(".name");
      [first.textContent, last.textContent] = this.two ? names : [name, ""];
      row.querySelector("i").className = `series-${index % COLOURS.length}`;
      return row;
    }));
    root.insertAdjacentHTML("beforeend", '<div class="axis"><span></span><span>0</span><span></span></div>');
    this.rows = [...root.querySelectorAll(".row")];
    this.ends = [...root.querySelectorAll(".axis span")];
  }

  // Shows Q-values and the chosen action on an axis up to `end`; returns a sentence like "prefers right by 0.004".
  show(values, action, end) {
    if (!values) return "";
    const behind = values.map((value) => (allowed(value) ? values[action] - value : null));
    [this.ends[0].textContent, this.ends[2].textContent] = this.two ? [small(end), small(end)] : ["0", small(end)];
    this.ends[1].textContent = this.two ? "0" : "behind the best by";
    if (this.two) {
      const bar = this.rows[0].querySelector("i");
      bar.className = `series-${action}`;
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

// The last `length` differences of Q-values: for two actions right minus left, for more each one minus the best.
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
    const best = Math.max(...values);
    const behind = values.map((value) => (allowed(value) ? value - best : null));
    const lines = values.length > 2 ? behind : [behind.includes(null) ? null : values[1] - values[0]];
    this.samples.push({ lines, push });
    if (this.samples.length > this.length) this.samples.shift();
  }

  // Draws the lines; returns the end of the axis.
  draw() {
    const { context, width, height } = prepare(this.canvas);
    const end = axisEnd(Math.max(...this.samples.flatMap((sample) => sample.lines.map(Math.abs)), 0));
    if (this.samples.length < 2) return end;
    const one = this.samples[0].lines.length === 1;
    const [low, high] = [-end, one ? end : 0];
    const span = high - low;
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
      context.fillText(`${value < 0 ? "−" : ""}${small(value)}`, width - margin + 6, y(value));
    }
    context.fillStyle = css("--push");
    this.samples.forEach(({ push }, index) => push && context.fillRect(x(index), 8, 2, height - 16));
    this.samples[0].lines.forEach((_, line) => {
      context.strokeStyle = one ? css("--ink") : css(COLOURS[line % COLOURS.length]);
      context.lineWidth = 1.5;
      context.beginPath();
      let drawn = false;
      this.samples.forEach(({ lines }, index) => {
        if (lines[line] !== null) context[drawn ? "lineTo" : "moveTo"](x(index), y(lines[line]));
        drawn = lines[line] !== null;
      });
      context.stroke();
    });
    return end;
  }
}

// One column an episode, the newest on the right; negative returns go down from zero.
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
