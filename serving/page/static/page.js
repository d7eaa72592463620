// The page: one WebSocket receives status and frames; buttons, keys and sliders send commands on it.

import { Challenge, sharedEpisode } from "./challenge.js";
import { drawHistory } from "./charts.js";
import { InputsPanel } from "./inputs.js";
import { LearningPanel } from "./learning.js";
import { LoopPanel } from "./loop.js";
import { Player } from "./player.js";
import { Panels } from "./panels.js";
import { WorldPanel, whole } from "./world.js";

const $ = (id) => document.getElementById(id);
const SPEEDS = [0.25, 0.5, 1, 2, 4];

const page = {
  socket: null, players: [], status: null, frame: null, versions: new URLSearchParams(location.search).get("compare") || "", mlflow: "", locked: false, retry: 500, dirty: true,
  token: sessionStorage.getItem("token") || "", pixels: false, frames: 0,
};
window.page = page; // for the browser's console and for tests

function send(command) {
  if (page.socket?.readyState === WebSocket.OPEN) page.socket.send(JSON.stringify(command));
}

function toast(message) {
  $("toast").textContent = message;
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").hidden = true), 5000);
}

async function api(path, options = {}) {
  const headers = page.token ? { Authorization: `Bearer ${page.token}` } : {};
  const response = await fetch(path, { ...options, headers });
  const content = await response.json();
  if (!response.ok) throw new Error(content.error);
  return content;
}

function connect() {
  const address = new URL(`api/show?versions=${encodeURIComponent(page.versions)}`, location.href); // works below any path prefix
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  page.socket = socket;
  socket.onopen = async () => {
    page.retry = 500;
    linkState("live", "live");
    if (page.token) send({ do: "authorize", token: page.token });
    try {
      const status = await api("api/status");
      [page.mlflow, page.locked] = [status.mlflow_url, status.locked];
      $("token-panel").hidden = !page.locked;
      panels.listReplays(await api("api/episodes"));
      await showShared();
      if (page.status) showStatus(page.status);
    } catch (error) {
      toast(error.message);
    }
  };
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "status") showStatus(message);
    else if (message.type === "error") toast(message.error);
    else showFrame(message);
  };
  socket.onclose = ({ code }) => {
    if (page.socket !== socket) return;
    if (code === 1008 && page.versions) {
      compare(""); // these versions cannot be loaded; the toast shows why
      return;
    }
    linkState("gone", "server gone, trying again");
    setTimeout(() => page.socket === socket && connect(), page.retry);
    page.retry = Math.min(page.retry * 1.6, 5000);
  };
}

function linkState(state, text) {
  $("link").dataset.state = state;
  $("link").textContent = text;
  document.body.classList.toggle("gone", state === "gone");
}

function showStatus(status) {
  const before = page.status;
  page.status = status;
  document.title = $("title").textContent = status.model;
  const empty = !status.ready && !status.players.length;
  document.body.classList.toggle("empty", empty);
  $("notice").textContent = status.notice;
  $("notice").hidden = empty || !status.notice;
  $("nothing").hidden = !empty;
  if (empty) showNothing(status);
  if (!status.ready) linkState("waiting", status.looking ? "starting" : "waiting for a champion");
  else if (page.socket.readyState === WebSocket.OPEN) linkState("live", status.paused ? "paused" : "live");
  const key = (s) => s?.players.map((player) => `${player.reference}|${player.env_id}`).join();
  if (key(before) !== key(status)) {
    page.players = status.players.map((player) => new Player($("player"), player));
    $("players").replaceChildren(...page.players.map((player) => player.root));
    $("players").dataset.count = Math.max(1, page.players.length);
    showEnvironment(status);
  }
  page.length = whole(status.world).length;
  page.players.forEach((player, index) => player.describe(status, status.players[index], page.mlflow));
  $("pause").firstElementChild.textContent = status.paused ? "Play" : "Pause";
  $("speeds").querySelectorAll("input").forEach((input) => (input.checked = Number(input.value) === status.speed));
  $("seed").placeholder = status.seed;
  $("viewers").textContent = `${status.viewers} ${status.viewers === 1 ? "viewer" : "viewers"}`;
  $("alone").hidden = page.versions === "";
  panels.show(status);
  world.show(status);
  learning.show(status);
  loop.show(status);
  page.dirty = true;
}

// Without an answer of the registry it is unknown whether there is a champion, so no advice is shown.
function showNothing({ looking, model, notice }) {
  $("nothing-title").textContent = looking ? "Looking for the champion" : "Nothing plays yet";
  const command = /: run `([^`]+)`/.exec(notice);
  $("nothing-why").textContent = looking ? "Waiting for the registry." : notice.slice(0, command?.index); // the command is shown below
  $("nothing-advice").hidden = looking || !command;
  if (command) $("nothing-command").textContent = command[1];
  const env = model.replace(/^dqn-/, "").replaceAll("~2", ":").replaceAll("~1", "/").replaceAll("~0", "~");
  if (!model.startsWith("dqn-") || env.startsWith("CartPole")) return; // a file may have any name
  $("subtitle").textContent = `A small neural network plays ${env}.`;
  $("nothing-train").textContent = "Train one:";
}

// Only CartPole can be drawn by the page, pushed and changed; other environments are shown as Gymnasium's pictures.
function showEnvironment({ players, no_pictures: why }) {
  const other = players.find((player) => !player.env_id.startsWith("CartPole"))?.env_id;
  document.body.classList.toggle("watch-only", Boolean(other));
  $("watch-only").hidden = !other;
  $("watch-only").textContent = why || `${other} is shown as Gymnasium renders it. Pushes, other worlds and comparisons work only for CartPole.`;
  $("pixels").hidden = Boolean(other);
  $("keep").textContent = other ? "Keep this episode" : "Keep this episode, pushes and all";
  $("pixels").disabled = page.versions !== "";
  const actions = players[0]?.action_meanings ?? ["left", "right"];
  if (other) {
    const choice = `${actions.slice(0, -1).join(", ")} or ${actions.at(-1)}`;
    $("subtitle").textContent = `A small neural network plays ${other}: at every step it chooses ${choice}.`;
  }
  showPixels(page.pixels || Boolean(other));
}

function showFrame(frame) {
  page.frame = frame;
  page.frames += 1;
  page.players.forEach((player, index) => player.take(frame, index));
  if (page.players[0]?.cartpole && page.status) challenge.take(frame, page.status);
  page.dirty = true;
}

function paint() {
  if (page.dirty && page.status) {
    page.dirty = false;
    page.players.forEach((player, index) => {
      player.paint(page.frame, index, page.length);
      drawHistory(player.find(".history"), page.status.players[index]?.history ?? [], player.cartpole ? 500 : 0);
    });
  }
  requestAnimationFrame(paint);
}

function push(direction) {
  if (document.body.matches(".watch-only")) return;
  send({ do: "push", force: direction * Number($("strength").value) });
}

function togglePause() {
  send({ do: page.status?.paused ? "resume" : "pause" });
}

function showPixels(on) {
  page.pixels = on;
  $("pixels").setAttribute("aria-pressed", on);
  page.players.forEach((player, index) => player.showPixels(on && index === 0 && !page.versions));
  page.dirty = true;
}

// Opens the replay of an episode that was shared by a link.
async function showShared() {
  const episode = sharedEpisode(location.search);
  if (!episode) return;
  history.replaceState(null, "", location.pathname);
  const replay = await api("api/episodes", { method: "POST", body: JSON.stringify(episode) });
  location.assign(`api/episodes/${replay.id}.html`);
}

function compare(versions) {
  page.versions = versions;
  history.replaceState(null, "", versions ? `?compare=${versions}` : location.pathname);
  const old = page.socket;
  page.socket = null;
  old?.close();
  connect();
}

const panels = new Panels({ api, compare, toast, page });
const world = new WorldPanel({ api, toast });
const loop = new LoopPanel();
new InputsPanel({ api, page });
const learning = new LearningPanel({ api });
const challenge = new Challenge({ send, page });

$("push-left").onclick = () => push(-1);
$("push-right").onclick = () => push(1);
$("strength").oninput = () => ($("strength-value").textContent = `${$("strength").value} N`);
$("pause").onclick = togglePause;
$("step").onclick = () => send({ do: "step" });
$("pixels").onclick = () => showPixels(!page.pixels);
$("reset").onsubmit = (event) => {
  event.preventDefault();
  const seed = $("seed").value;
  send({ do: "reset", seed: seed === "" ? null : Number(seed) });
};
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  page.token = $("token").value;
  sessionStorage.setItem("token", page.token);
  send({ do: "authorize", token: page.token });
};
$("speeds").append(...SPEEDS.map((speed) => {
  const label = document.createElement("label");
  label.innerHTML = `<input type="radio" name="speed" value="${speed}"><span>${speed}×</span>`;
  label.firstElementChild.onchange = () => send({ do: "speed", speed });
  return label;
}));

const keys = {
  ArrowLeft: () => push(-1),
  ArrowRight: () => push(1),
  " ": togglePause,
  ".": () => send({ do: "step" }),
  r: () => send({ do: "reset", seed: null }),
  g: () => $("pixels").click(),
};
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input:not([type=radio], [type=checkbox]), select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " " && event.target.matches("button, a, input")) return; // space presses the focused element
  if (event.key.startsWith("Arrow") && event.target.closest("#speeds")) return; // arrows choose in this group
  const action = keys[event.key];
  if (!action || !$("shortcuts").checked) return;
  if (event.repeat && !event.key.startsWith("Arrow")) return; // a key that is held down counts once, except arrows
  event.preventDefault();
  action();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (page.dirty = true));
addEventListener("resize", () => (page.dirty = true));

connect();
requestAnimationFrame(paint);
