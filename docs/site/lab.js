// The lab: a population learns in workers, and the page draws what each agent's policy of this moment does.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const ENV = "CartPole-v1", ACTIONS = ["left", "right"], world = ENVIRONMENTS[ENV].world;
const HIDDEN = { "16": [16], "32 - 32": [32, 32], "64 - 64": [64, 64] };
const KNOBS = {
  agents: ["Agents", "range", 1, 32, 1, 16], rate: ["Learning rate", "range", -4, -1, 0.05, Math.log10(PRESET.rate)],
  epsilonEnd: ["Random actions", "range", 0, 1, 0.05, PRESET.epsilonEnd], nStep: ["n-step", "range", 1, 10, 1, PRESET.nStep],
  network: ["Network", "select", ...Object.keys(HIDDEN)], seed: ["Seed", "number", 0, 1e6, 1, 0],
};
const show = { agents: String, rate: (value) => (10 ** value).toPrecision(2), epsilonEnd: (value) => `${Math.round(value * 100)}%`, nStep: String, seed: String };
let settings, sizes, population = [], workers = [], began = 0, ended = 0, chosen = 0, dirty = true, playing;

for (const [name, [label, kind, ...range]] of Object.entries(KNOBS)) {
  const [min, max, step, value] = range, output = element("output");
  const input = kind === "select" ? element("select", {}, ...range.map((choice) => element("option", {}, choice))) : element("input", { type: kind, min, max, step, value });
  if (kind === "select") input.value = "32 - 32";
  input.id = `knob-${name}`;
  const said = () => (output.value = kind === "range" ? show[name](Number(input.value)) : "");
  input.oninput = () => {
    said();
    $("hint").textContent = "takes effect when they train again";
  };
  said();
  $("knobs").append(element("label", {}, element("span", {}, label), input, output));
}
const knob = (name) => (name === "network" ? $("knob-network").value : Number($(`knob-${name}`).value));

function begin() {
  workers.forEach((worker) => worker.terminate());
  settings = { ...PRESET, seed: knob("seed"), rate: 10 ** knob("rate"), epsilonEnd: knob("epsilonEnd"), nStep: knob("nStep"), hidden: HIDDEN[knob("network")] };
  settings.rateEnd = Math.min(PRESET.rateEnd, settings.rate);
  sizes = sizesOf(settings);
  const agents = knob("agents"), count = Math.min(Math.max(navigator.hardwareConcurrency || 2, 1), 8, agents);
  population = Array.from({ length: agents }, (_, k) => tile(k));
  $("population").replaceChildren(...population.map((each) => each.button));
  const source = URL.createObjectURL(new Blob([$("script-play").textContent, $("script-learner").textContent, "onmessage = (event) => trainHere(event.data);"], { type: "text/javascript" }));
  [began, ended] = [performance.now(), 0];
  let first = 0;
  workers = Array.from({ length: count }, (_, w) => {
    const worker = new Worker(source), mine = Math.floor(agents / count) + (w < agents % count ? 1 : 0);
    worker.onmessage = (event) => hear(event.data);
    worker.onerror = () => ($("hint").textContent = "this browser refuses to train here");
    worker.postMessage({ settings, first, agents: mine });
    first += mine;
    return worker;
  });
  $("hint").textContent = "";
  $("happening").replaceChildren(...happening(agents).map((text, k) => element("p", {}, element("b", {}, `${k + 1} `), text)));
  choose(0);
}

function tile(index) {
  const canvas = element("canvas"), name = element("span", {}, element("b", {}, `agent ${index}`), element("i"));
  const button = element("button", { type: "button", className: "agent", "aria-pressed": "false", onclick: () => choose(index, true) }, canvas, name);
  return { index, canvas, name, button, numbers: null, curve: [], updates: 0, solved: false, play: episode(ENV, index, world), rest: 0 };
}

function hear({ index, updates, steps, solved, recent, numbers }) {
  const one = population[index];
  Object.assign(one, { updates, steps, solved, numbers, policy: network(numbers, sizes) });
  one.curve.push([updates, recent]);
  one.name.lastChild.textContent = solved ? "accepted ✓" : `return ${Math.round(recent)}`;
  one.button.classList.toggle("solved", solved);
  dirty = true;
  if (!ended && population.every((each) => each.solved || each.updates >= settings.maxUpdates)) ended = performance.now();
}

function choose(index, scroll = false) {
  chosen = index;
  population.forEach((each) => each.button.setAttribute("aria-pressed", String(each.index === index)));
  $("chosen").textContent = `Agent ${index}: push it, break its world`;
  if (playing) playing.restart();
  else playing = stage($("stage"), { environment: ENV, actions: ACTIONS, seed: 100, policy: () => population[chosen].policy ?? blank() });
  if (scroll) $("chosen").scrollIntoView({ behavior: calm ? "auto" : "smooth" });
}
const blank = () => network(new Float32Array(countOf(sizes)).fill(1), sizes);

const happening = (agents) => [
  `Each of the ${agents} agents has a network of ${(countOf(sizes) - 4).toLocaleString("en")} numbers, a random start, and ${settings.envs} carts of its own to try things on; they never exchange anything.`,
  `An agent draws ${settings.batch} of its stored transitions at a time, and moves the value of each action taken towards the rewards of ${settings.nStep} steps plus the value of what came next.`,
  `At first all actions are random; after ${settings.epsilonUpdates} updates ${Math.round(settings.epsilonEnd * 100)}% still are, and the others are those of the greatest value.`,
  `What you see is the average of an agent’s recent networks, which plays without random actions in real time, while training runs far ahead of it.`,
  `An agent lights up and stops when that average has balanced for 500 steps in each of 4, then 100 episodes, and in 100 more with a tenth of its actions random.`,
];

function step(one) {
  if (!one.policy) return;
  if (one.play.over) {
    if (one.rest++ > (one.play.steps >= 500 ? 50 : 12)) [one.play, one.rest] = [episode(ENV, one.play.seed + 100, world), 0];
    return;
  }
  one.play.step(greedy(qValues(one.policy, one.play.observation())));
}

const calm = matchMedia("(prefers-reduced-motion: reduce)").matches; // then only the stage moves, after "Play"
let last = 0, frames = 0;
function frame(time) {
  frames++;
  if (time - last > 100) last = time - 20;
  for (; time - last >= 20; last += 20) if (!calm) population.forEach(step);
  if (onScreen($("population"))) for (const one of population) {
    const [pen, width, height] = cleared(one.canvas);
    ENVIRONMENTS[ENV].draw(pen, width, height, one.play.state, world, colours);
  }
  const solved = population.filter((each) => each.solved).length, most = Math.max(...population.map((each) => each.updates));
  $("accepted").textContent = `${solved} of ${population.length} accepted`;
  $("time").textContent = `${(((ended || performance.now()) - began) / 1000).toFixed(1)} s, ${most} updates`;
  if (dirty) drawCurves(Math.max(most, 1000));
  requestAnimationFrame(frame);
}

function drawCurves(most) {
  const [pen, width, height] = cleared($("curves"));
  const point = ([updates, value]) => [(updates / most) * (width - 6) + 3, height - 4 - (value / 500) * (height - 10)];
  line(pen, [point([0, 500]), point([most, 500])], colours.line, 1, [3, 4]);
  for (const one of population) {
    pen.globalAlpha = one.index === chosen ? 1 : 0.35;
    if (one.curve.length) line(pen, [[3, height - 4], ...one.curve.map(point)], colours.accent, one.index === chosen ? 2.5 : 1.3);
    if (one.solved) disc(pen, ...point(one.curve.at(-1)), 3.5, colours.accent);
  }
  pen.globalAlpha = 1;
  $("axis").textContent = `${most} updates`;
  dirty = false;
}

const base64 = (numbers) => btoa(Array.from(new Uint8Array(numbers.buffer), (byte) => String.fromCharCode(byte)).join(""));
function take(name, content, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
// The file that `take-onnx` saves, and the page that `take-card` saves, of the chosen agent.
function policyFile() {
  const properties = { env_id: ENV, action_meanings: ACTIONS.join(","), run_id: "lab", seed: String(settings.seed), agent: String(chosen), config_sha256: "0".repeat(64), world: "{}", observed: "[]" };
  return onnxFile(population[chosen].numbers, sizes, properties);
}
function cardPage() {
  const { numbers, updates, steps, solved } = population[chosen];
  const words = {
    "How it was trained": `In a browser, by ${updates} gradient updates with ${settings.batch} transitions each, from ${steps.toLocaleString("en")} environment steps, in a population of ${population.length}.`,
    "How it was judged": solved ? "It was accepted: 500 steps in each of 204 episodes, in 100 of which a tenth of its actions were random." : "It was not accepted when this page was saved.",
  };
  const about = Object.entries(words).map(([name, text]) => `<div><h2>${name}</h2><p>${text}</p></div>`).join("");
  const content = { environment: ENV, actions: ACTIONS, sizes, world: {}, numbers: base64(numbers) };
  const parts = { "@title@": `CartPole-v1, agent ${chosen} of the lab`, "@about@": about, '"@data@"': JSON.stringify(content) };
  return Object.entries(parts).reduce((page, [mark, text]) => page.replaceAll(mark, () => text), data.card);
}
$("take-onnx").onclick = () => population[chosen].numbers && take("policy.onnx", policyFile(), "application/octet-stream");
$("take-card").onclick = () => population[chosen].numbers && take("policy.html", cardPage(), "text/html");
$("train").onclick = begin;
begin();
requestAnimationFrame(frame);
