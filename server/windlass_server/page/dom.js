// Building the document. Text becomes text nodes, never markup.

/** Return the element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * Make an element. `properties` are DOM properties, except `data`, an object of data attributes,
 * and names with a dash, which are attributes. Strings among `children` become text.
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(node.dataset, value);
    else if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** Make a button that calls `act` when it is pressed. */
export function button(text, act, properties = {}) {
  const node = element("button", { type: "button", ...properties }, text);
  node.addEventListener("click", act);
  return node;
}

/** Say something to screen readers once. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Show an error above everything, or hide the last one when `text` is empty. */
export function notice(text) {
  const box = byId("notice");
  box.textContent = text;
  box.hidden = !text;
}

/** Copy text, and tell on the button that was pressed. */
export async function copyText(text, pressed) {
  const label = pressed.textContent;
  pressed.textContent = (await writeClipboard(text)) ? "Copied" : "Cannot copy";
  announce(pressed.textContent);
  setTimeout(() => { pressed.textContent = label; }, 1500);
}

async function writeClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without TLS a browser has no clipboard interface but on localhost.
    const area = element("textarea", { value: text, className: "visually-hidden" });
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return done;
  }
}
