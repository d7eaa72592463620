// The page: hands what is received to the panels, and sends commands.

import { $, choose, stored, text, toast } from "./dom.js";
import { TRACED } from "./draw/charts.js";
import { Link } from "./link.js";
import { Challenge, sharedEpisode } from "./panels/challenge.js";
import { InputsPanel } from "./panels/inputs.js";
import { LearningPanel } from "./panels/learning.js";
import { LoopPanel } from "./panels/loop.js";
import { paintMinds, Player } from "./panels/player.js";
import { Replays } from "./panels/replays.js";
import { OwnTime } from "./panels/time.js";
import { Versions } from "./panels/versions.js";
import { WorldPanel, whole } from "./panels/world.js";

const page = {
  players: [], status: null, frame: null, versions: new URLSearchParams(location.search).get("compare") || "",
  mlflow: "", locked: false, pixels: false, streams: 0, frames: 0, dirty: true,
};
window.page = page; // for the browser's console and for tests

const link = (page.link = new Link({ heard, opened, lost, refused: () => compare("") }));
link.token = stored("sessionStorage", "token");
const send = (command) => link.send(command);
const api = (path, options) => link.api(path, options);
const refresh = () => (page.dirty = true);

async function opened() {
  say("live");
  page.locked = false;
  if (link.token) send({ do: "authorize", token: link.token });
  learning.listen(true);
  page.streams += 1; // a stream of pictures ended with the link before
  showPixels(page.pixels);
  try {
    const status = await api("api/status");
    page.mlflow = status.mlflow_url;
    lock(status.locked && !page.authorized);
    await replays.list();
    await showShared();
    if (page.status) showStatus(page.status);
  } catch (error) {
    toast(error.message);
  }
}

function lost() {
  page.authorized = false;
  learning.listen(false);
  say("gone", "server gone");
}

// The link is "live", "waiting" or "gone". Without a server nothing can be changed.
function say(state, words = state) {
  $("link").dataset.state = state;
  text("link", words);
  $("gone").hidden = state !== "gone";
  document.body.classList.toggle("gone", state === "gone");
  guard();
}

function lock(locked) {
  page.locked = locked;
  $("token-form").hidden = !locked;
  guard();
}

function guard() {
  const barred = page.locked || !link.open;
  document.querySelectorAll(".acts").forEach((controls) => (controls.disabled = barred));
}

function heard(message) {
  if (message.type === "status") showStatus(message);
  else if (message.type === "error") toast(message.error);
  else if (message.type === "authorized") {
    page.authorized = message.authorized;
    if (page.authorized && page.locked) toast("Unlocked: push, and change things.");
    lock(!page.authorized);
  } else showFrame(message);
}

function showStatus(status) {
  const before = page.status;
  page.status = status;
  const empty = !status.ready && !status.players.length;
  document.body.classList.toggle("empty", empty);
  text("notice", status.notice);
  $("notice").hidden = empty || !status.notice;
  $("nothing").hidden = !empty;
  if (empty) showNothing(status);
  if (!status.ready) say("waiting", status.looking ? "starting" : "waiting for a champion");
  else if (link.open) say("live", status.paused ? "paused for everybody" : "live");
  const key = (s) => s?.players.map(({ reference, env_id: env }) => `${reference}|${env}`).join();
  if (key(before) !== key(status)) {
    const players = (page.players = status.players.map((player) => new Player(player)));
    $("players").replaceChildren(...players.map(({ root }) => root));
    $("minds").replaceChildren(...players.map(({ mind }) => mind));
    $("players").dataset.count = Math.max(1, players.length);
    if (players.length) showEnvironment(status);
  }
  page.players.forEach((player, index) => player.describe(status, status.players[index], page.mlflow));
  $("pause").firstElementChild.textContent = status.paused ? "Play" : "Pause";
  $("speeds").querySelectorAll("input").forEach((input) => (input.checked = Number(input.value) === status.speed));
  $("seed").placeholder = status.seed;
  text("viewers", `${status.viewers} ${status.viewers === 1 ? "viewer" : "viewers"}`);
  for (const panel of panels) panel.show(status);
  refresh();
}

// Before the registry answers, no advice is shown.
function showNothing({ looking, model, notice }) {
  text("nothing-title", looking ? "Looking for the champion" : "Nothing plays yet");
  const [, why, command] = /^(.*): run `([^`]+)`/.exec(notice) ?? [, notice, ""];
  text("nothing-why", looking ? "Waiting for the registry." : why);
  $("nothing-advice").hidden = looking || !command;
  text("nothing-command", command);
  const env = model.replace(/^dqn-/, "").replaceAll("~2", ":").replaceAll("~1", "/").replaceAll("~0", "~");
  if (!model.startsWith("dqn-") || env.startsWith("CartPole")) return; // a file may have any name
  invite(env, "");
}

function invite(env, does) {
  document.title = $("title").textContent = `Watch it play ${env}`;
  text("subtitle", `A small neural network plays ${env}${does}.`);
}

// Only CartPole can be drawn here, pushed and changed; others are shown as Gymnasium's pictures.
function showEnvironment({ players, no_pictures: why }) {
  const other = players.find((player) => !player.env_id.startsWith("CartPole"))?.env_id;
  document.body.classList.toggle("watch-only", Boolean(other));
  $("watch-only").hidden = !other;
  text("watch-only", why || `${other} is shown as Gymnasium renders it. Pushes, other worlds and comparisons work only for CartPole.`);
  $("pixels").hidden = Boolean(other);
  $("back").hidden = Boolean(other);
  text("keep", other ? "Keep this episode" : "Keep this episode, pushes and all");
  $("pixels").disabled = page.versions !== "";
  const actions = players[0].action_meanings;
  if (other) invite(other, `: at every step it chooses ${actions.slice(0, -1).join(", ")} or ${actions.at(-1)}`);
  showPixels(page.pixels || Boolean(other));
}

function showFrame(frame) {
  page.frame = frame;
  page.frames += 1;
  time.take(frame);
  if (page.players[0]?.cartpole && page.status) challenge.take(frame, page.status);
  refresh();
}

function paint() {
  if (page.dirty && page.status) {
    page.dirty = false;
    const frames = time.recent(TRACED);
    const { status } = page;
    page.players.forEach((player, index) => player.paint(frames, index, { length: whole(status.world).length, status }));
    if (!$("thoughts").hidden) paintMinds(page.players, frames);
    time.paint();
  }
  requestAnimationFrame(paint);
}

function push(direction) {
  if (document.body.matches(".watch-only") || $("acts").disabled) return;
  time.live();
  send({ do: "push", force: direction * Number($("strength").value) });
}

function showPixels(on) {
  page.pixels = on;
  $("pixels").setAttribute("aria-pressed", on);
  page.players.forEach((player, index) => player.showPixels(on && index === 0 && !page.versions, time.held, page.streams));
  refresh();
}

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
  time.clear();
  link.watch(versions);
}

const time = (page.time = new OwnTime({ changed: () => showPixels(page.pixels) }));
const replays = new Replays({ api, page });
const challenge = new Challenge({ send });
const learning = new LearningPanel({ api });
const panels = [
  replays, new Versions({ compare, page, api }), new WorldPanel({ api }), learning, new LoopPanel(),
];
new InputsPanel({ api, page });

const toggle = () => send({ do: page.status?.paused ? "resume" : "pause" });
$("push-left").onclick = () => push(-1);
$("push-right").onclick = () => push(1);
$("players").onclick = ({ target, offsetX }) => {
  if (target.matches("canvas")) push(offsetX / target.clientWidth - 0.5 < page.frame.s[0][0] / 4.8 ? 1 : -1); // from the side of the click
};
$("strength").oninput = () => ($("strength-value").textContent = `${$("strength").value} N`);
$("pause").onclick = toggle;
$("step").onclick = () => send({ do: "step" });
$("pixels").onclick = () => !$("pixels").hidden && showPixels(!page.pixels);
$("reset").onsubmit = (event) => {
  event.preventDefault();
  const seed = $("seed").value;
  send({ do: "reset", seed: seed === "" ? null : Number(seed) });
};
$("token-form").onsubmit = (event) => {
  event.preventDefault();
  link.token = $("token").value;
  stored("sessionStorage", "token", link.token);
  send({ do: "authorize", token: link.token });
};
$("speeds").onchange = ({ target }) => send({ do: "speed", speed: Number(target.value) });

const keys = {
  ArrowLeft: () => push(-1),
  ArrowRight: () => push(1),
  " ": () => $("hold").click(),
  p: toggle,
  ".": () => send({ do: "step" }),
  r: () => send({ do: "reset", seed: null }),
  g: () => $("pixels").click(),
  f: () => $("full").click(),
};
document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (target.matches("input:not([type=radio], [type=checkbox]), select") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (key === " " && target.closest("button, a, input")) return; // space presses the focused element
  if (key.startsWith("Arrow") && target.closest("#speeds, #tabs, #loop-body")) return; // arrows choose or scroll here
  const action = keys[key];
  if (!action || !$("shortcuts").checked) return;
  if (event.repeat && !key.startsWith("Arrow")) return; // a key that is held down counts once, except arrows
  event.preventDefault();
  action();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
addEventListener("resize", refresh);

choose($("tab-thoughts"));
link.watch(page.versions);
requestAnimationFrame(paint);
