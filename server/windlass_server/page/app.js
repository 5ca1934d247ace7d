// The page: its tabs, the model, the key, the keyboard.

import { apiKey, getJson, setApiKey } from "./api.js";
import { Chat } from "./chat.js";
import { Completion } from "./completion.js";
import { byId, element, notice } from "./dom.js";
import { EngineTab } from "./engine.js";

const model = () => byId("model").value;
const chat = new Chat(model);
const completion = new Completion(model);
const engine = new EngineTab();

// -- tabs ---------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  document.body.dataset.view = tab.id.replace("tab-", "");
  if (tab.id === "tab-engine") engine.start();
  else engine.stop();
}

for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const target = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    const next = tabs.at(target % tabs.length);
    select(next);
    next.focus();
  });
}

// -- panels that narrow screens hide ------------------------------------------------------

function toggle(switches, className) {
  for (const control of switches) {
    control.addEventListener("click", () => {
      const open = document.body.classList.toggle(className);
      for (const other of switches) other.setAttribute("aria-expanded", String(open));
      if (open) byId(control.getAttribute("aria-controls")).querySelector("button, textarea")?.focus();
    });
  }
}

function closePanels() {
  const open = ["side-open", "settings-open"].filter((name) => document.body.classList.contains(name));
  document.body.classList.remove(...open);
  for (const control of document.querySelectorAll(".settings-toggle, #side-toggle")) {
    control.setAttribute("aria-expanded", "false");
  }
  return open.length > 0;
}

toggle([byId("side-toggle")], "side-open");
toggle([...document.querySelectorAll(".settings-toggle")], "settings-open");
byId("side").addEventListener("click", (event) => {
  if (event.target.closest(".open, #new")) closePanels();
});

// -- the key ------------------------------------------------------------------------------

const dialog = byId("key-dialog");

function askForKey() {
  if (dialog.open) return;
  byId("key").value = apiKey();
  dialog.showModal();
}

function useKey(key) {
  setApiKey(key.trim());
  dialog.close();
  notice("");
  engine.resume();
  loadModels();
}

byId("key-button").addEventListener("click", askForKey);
byId("key-cancel").addEventListener("click", () => dialog.close());
byId("key-forget").addEventListener("click", () => useKey(""));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
});
document.addEventListener("windlass-key", askForKey);

// -- the model ----------------------------------------------------------------------------

async function loadModels() {
  try {
    const { data } = await getJson("v1/models");
    const chosen = model();
    byId("model").replaceChildren(...data.map(({ id }) => element("option", { value: id }, id)));
    if (data.some(({ id }) => id === chosen)) byId("model").value = chosen;
  } catch (error) {
    notice(error.message);
    // While the model loads the server says so: look again soon.
    if (error.status === 503 || error.status === 0) setTimeout(loadModels, 3000);
    return;
  }
  notice("");
}

// -- the keyboard -------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !dialog.open) {
    if (chat.stop() || completion.stop() || closePanels()) event.preventDefault();
    return;
  }
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const shortcut = {
    KeyN: () => { select(tabs[0]); chat.startNew(); },
    KeyM: () => { select(tabs[0]); byId("draft").focus(); },
    Digit1: () => { select(tabs[0]); tabs[0].focus(); },
    Digit2: () => { select(tabs[1]); tabs[1].focus(); },
    Digit3: () => { select(tabs[2]); tabs[2].focus(); },
  }[event.code];
  if (!shortcut) return;
  event.preventDefault();
  shortcut();
});

select(tabs[0]);
loadModels();
