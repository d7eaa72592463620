// What every panel uses: elements, messages, tabs, and storage that may be denied.

export const $ = (id) => document.getElementById(id);

// Touches the page only where it differs: readers hear what changes.
export function text(id, value) {
  if ($(id).textContent !== `${value}`) $(id).textContent = value;
}

export function element(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

export function toast(message) {
  text("toast", message);
  $("toast").hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => ($("toast").hidden = true), 6000);
}

// A stored value, after setting it if one is given; "" where a browser denies storage.
export function stored(kind, key, value) {
  try {
    if (value !== undefined) window[kind].setItem(key, value);
    return window[kind].getItem(key) ?? "";
  } catch {
    return "";
  }
}

const tabs = () => [...$("tabs").children].filter((tab) => !tab.hidden);

// Chooses a tab; its panel hears "shown".
export function choose(chosen) {
  for (const tab of $("tabs").children) {
    tab.setAttribute("aria-selected", tab === chosen);
    tab.tabIndex = tab === chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  }
  $(chosen.getAttribute("aria-controls")).dispatchEvent(new Event("shown"));
}

// Shows or hides a tab. Until a viewer chooses, the first is chosen.
export function offer(tab, offered) {
  if (tab.hidden !== offered) return;
  tab.hidden = !offered;
  const chosen = tabs().find((each) => each.ariaSelected === "true");
  if (!chosen || !$("tabs").dataset.chosen) choose(tabs()[0]);
}

$("tabs").onclick = ({ target }) => {
  if (target.role !== "tab") return;
  $("tabs").dataset.chosen = "yes";
  choose(target);
};
$("tabs").onkeydown = (event) => {
  const all = tabs();
  const at = all.indexOf(event.target);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  const tab = all.at(next % all.length);
  tab.click();
  tab.focus();
};
