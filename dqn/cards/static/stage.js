// The stage: one policy plays, can be pushed, and its world can be broken. Shared by the card and the lab.

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  for (const [name, value] of Object.entries(attributes)) if (name.includes("-")) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["ink", "muted", "line", "accent", "paper"]) colours[name] = style.getPropertyValue(`--${name}`).trim();
}
readColours();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", readColours);

// A pen for a canvas in CSS pixels, cleared.
function cleared(canvas) {
  const ratio = Math.min(devicePixelRatio || 1, 2), { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return [pen, width, height];
}

// Whether a part of the page can be seen without scrolling; what cannot is not drawn.
function onScreen(part) {
  const { top, bottom } = part.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

// Fills `root`. `player` has environment, actions (their names), world (differences from Gymnasium's), policy() (the
// network of this moment) and seed.
function stage(root, player) {
  const kind = ENVIRONMENTS[player.environment], own = { ...kind.world, ...player.world };
  const world = { ...own }, limit = player.limit || kind.limit;
  let returns = [], now, push = 0, shown = 0, pushed = 0, last = 0, waiting = 0, paused = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const canvas = element("canvas", { role: "img", "aria-label": `${player.environment}, played by the policy` });
  const count = element("p", { className: "count" }), said = element("p", { className: "said", role: "status" });
  const bars = player.actions.map((name) => element("li", {}, element("span", {}, name), element("b")));
  const picture = element("div", { className: "picture" }, canvas, count, said);
  const button = (text, act, extra = {}) => element("button", { type: "button", textContent: text, onclick: act, ...extra });
  const seed = element("input", { type: "number", min: 0, max: 2 ** 31, value: player.seed ?? 0, "aria-label": "Seed of the next episode" });
  const pause = button(paused ? "Play" : "Pause", () => {
    paused = !paused;
    pause.textContent = paused ? "Play" : "Pause";
  });
  const force = element("input", { type: "range", min: 5, max: 120, value: 40, "aria-label": "Force of a push in newtons" });
  const strength = element("output", {}, "40 N");
  force.oninput = () => (strength.value = `${force.value} N`);
  const shove = (side) => {
    push = pushed = side * Number(force.value);
    shown = 25;
    now.untouched = false;
  };
  const pushing = [button("◀ Push", () => shove(-1), { title: "key ◀" }), force, strength, button("Push ▶", () => shove(1), { title: "key ▶" })];
  const history = element("ol", { className: "returns", "aria-label": "Returns of the last episodes" });
  const mean = element("p", { className: "note" });

  const knobs = Object.entries(kind.knobs).map(([name, [label, low, high, unit]]) => {
    const value = element("output"), range = element("input", { type: "range", min: low, max: high, step: unit === "steps" ? 1 : (high - low) / 200, "aria-label": label });
    const show = () => {
      range.value = world[name] ?? 0;
      value.value = `${Number((world[name] ?? 0).toPrecision(3))} ${unit}`;
    };
    range.oninput = () => change({ [name]: Number(range.value) });
    return { show, row: element("label", {}, element("span", {}, label), range, value) };
  });
  const change = (values) => {
    Object.assign(world, values);
    now.untouched = false;
    knobs.forEach((knob) => knob.show());
  };
  const right = () => {
    for (const name of Object.keys(kind.knobs)) delete world[name];
    change(own);
  };
  const breaking = element("section", { className: "panel" }, element("h2", {}, "Break its world"), ...knobs.map((knob) => knob.row),
    element("p", { className: "row" }, ...("force_mag" in own ? [button("Reverse the motor", () => change({ force_mag: -world.force_mag }))] : []), button("Put it right", right)));
  root.append(
    element("section", { className: "panel play" }, picture, element("ul", { className: "values", "aria-label": "Q-values" }, ...bars),
      ...(kind.pushable ? [element("div", { className: "row pushing" }, ...pushing)] : []),
      element("div", { className: "row" }, pause, button("New episode", () => begin(Number(seed.value))), element("label", { className: "seed" }, "seed ", seed))),
    element("div", { className: "beside" }, breaking, element("section", { className: "panel" }, element("h2", {}, "Returns"), history, mean)),
  );

  function begin(next) {
    now = episode(player.environment, next, world, limit);
    now.untouched = Object.keys({ ...world, ...own }).every((name) => (world[name] ?? 0) === (own[name] ?? 0) || Array.isArray(own[name]));
    [push, shown, waiting] = [0, 0, 0];
    seed.value = next + 1;
    knobs.forEach((knob) => knob.show());
  }
  function advance() {
    if (now.over) {
      if (++waiting > kind.fps * 1.4) begin(Number(seed.value));
      return;
    }
    const values = qValues(player.policy(), now.observation()), action = greedy(values);
    now.step(action, push);
    push = 0;
    if (shown) shown--;
    bars.forEach((bar, k) => {
      bar.className = k === action ? "chosen" : "";
      bar.lastChild.textContent = values[k].toFixed(3);
    });
    if (now.over) ended();
  }
  function ended() {
    const { seed, total, untouched } = now;
    returns = [...returns.slice(-15), { seed, total, untouched }];
    said.textContent = `${now.over}${now.over.includes("steps") ? "" : ` at step ${now.steps}`}. Return ${now.total}.`;
    list();
  }
  function list() {
    history.replaceChildren(...returns.map((each) => {
      const bar = element("li", { title: `seed ${each.seed}: return ${each.total}${each.untouched ? "" : ", pushed or in a changed world"}` }, String(each.total));
      bar.style.setProperty("--share", Math.min(Math.abs(each.total) / limit, 1));
      bar.className = each.untouched ? "" : "touched";
      return bar;
    }));
    const kept = returns.filter((each) => each.untouched);
    mean.textContent = returns.length ? "" : "No episode has ended yet.";
    if (kept.length) mean.textContent = `Mean of ${kept.length} untouched: ${(kept.reduce((sum, each) => sum + each.total, 0) / kept.length).toFixed(1)}. `;
    if (returns.length > kept.length) mean.textContent += "Hollow: pushed, or in a changed world.";
  }
  function frame(time) {
    if (!paused && time - last > 250) last = time - 1000 / kind.fps;
    for (; !paused && time - last >= 1000 / kind.fps; last += 1000 / kind.fps) advance();
    requestAnimationFrame(frame);
    if (!onScreen(canvas)) return;
    const [pen, width, height] = cleared(canvas);
    kind.draw(pen, width, height, now.state, world, colours, shown ? pushed : 0);
    count.textContent = `step ${now.steps}`;
  }
  document.addEventListener("keydown", (event) => {
    const side = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!side || !kind.pushable || event.target.closest("input, textarea, select")) return;
    shove(side);
    event.preventDefault();
  });
  // Begins again, without the returns so far: they were another policy's.
  function restart() {
    [returns, said.textContent] = [[], ""];
    list();
    begin(player.seed ?? 0);
  }
  restart();
  requestAnimationFrame(frame);
  return { restart, world, episode: () => now };
}
