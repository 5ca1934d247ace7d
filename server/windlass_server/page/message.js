// One message of a conversation on the page.

import { button, copyText, element } from "./dom.js";
import { MarkdownView } from "./markdown.js";
import { statsLine } from "./timing.js";

const NAMES = { user: "You", assistant: "Answer", tool: "Tool result" };

/**
 * Shows a message and keeps up with it while it grows. `actions` has what its buttons do:
 * `edit(text)` and, for answers, `regenerate()` and `results(list)` with the results of tools.
 */
export class MessageView {
  #reasoning = null;
  #tools = null;

  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.content = element("div", { className: "content" });
    const asIs = message.role !== "assistant" || message.json;
    if (message.json) this.content.classList.add("json");
    this.markdown = asIs ? null : new MarkdownView(this.content);
    this.stats = element("p", { className: "stats" });
    this.error = element("p", { className: "error" });
    this.buttons = element("div", { className: "actions" });
    this.body = element(
      "article",
      {},
      element("h3", {}, NAMES[message.role]),
      this.content,
      this.error,
      element("div", { className: "below" }, this.stats, this.buttons),
    );
    this.node = element("li", { className: `message ${message.role}` }, this.body);
    this.update();
    this.finish();
  }

  /** Show what the message holds now. */
  update() {
    const { message } = this;
    if (this.markdown) this.markdown.update(message.content);
    else this.content.textContent = message.json ? pretty(message.content) : message.content;
    if (message.reasoning) this.#showReasoning(message.reasoning);
    if (message.tool_calls?.length) this.#showTools(message.tool_calls);
  }

  /** Show that the answer is being written, without buttons. */
  begin() {
    this.node.classList.add("busy");
    this.buttons.replaceChildren();
    if (!this.message.content) this.content.classList.add("waiting");
  }

  /** Show how the message ended, and what can be done with it. */
  finish() {
    const { message } = this;
    this.node.classList.remove("busy");
    this.content.classList.remove("waiting");
    this.stats.textContent = message.stats ? statsLine(message.stats) : "";
    this.error.textContent = message.error ?? "";
    this.error.hidden = !message.error;
    const copy = button("Copy", () => copyText(message.content, copy));
    this.buttons.replaceChildren(copy);
    if (message.role !== "tool") this.buttons.append(button("Edit", () => this.#edit()));
    if (message.role === "assistant") {
      this.buttons.append(button("Regenerate", () => this.actions.regenerate()));
    }
  }

  /** Ask for the results of the tools that the answer called. */
  askForResults() {
    const { tool_calls: calls } = this.message;
    const inputs = calls.map((call, index) => {
      const id = `result-${index}-${call.id}`;
      return [element("label", { htmlFor: id }, `Result of ${call.name}`), element("textarea", { id, rows: 2 })];
    });
    const form = element("form", { className: "stack results" }, ...inputs.flat());
    form.append(element("button", { type: "submit" }, "Send results"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const values = inputs.map(([, area]) => area.value);
      form.remove();
      this.actions.results(values);
    });
    this.body.append(form);
  }

  #showReasoning(text) {
    if (!this.#reasoning) {
      const inside = element("div", { className: "content" });
      this.#reasoning = new MarkdownView(inside);
      const details = element("details", { className: "reasoning" }, element("summary", {}, "Reasoning"), inside);
      this.content.before(details);
    }
    this.content.classList.remove("waiting");
    this.#reasoning.update(text);
  }

  #showTools(calls) {
    if (!this.#tools) {
      this.#tools = element("div", { className: "tool-calls" });
      this.content.after(this.#tools);
    }
    this.#tools.replaceChildren(...calls.map((call) => element(
      "section",
      { className: "tool-call", "aria-label": `Tool call ${call.name}` },
      element("p", {}, "Calls ", element("code", {}, call.name || "…")),
      element("pre", { tabIndex: 0, role: "region", "aria-label": "Arguments" }, pretty(call.arguments)),
    )));
  }

  #edit() {
    const area = element("textarea", { value: this.message.content, rows: 4, "aria-label": "Text of the message" });
    const close = () => {
      form.replaceWith(this.content);
      this.finish();
    };
    const save = element("button", { type: "submit", className: "primary" }, "Save");
    const form = element("form", { className: "stack" }, area,
      element("div", { className: "row end" }, button("Cancel", close), save));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      close();
      this.actions.edit(area.value);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      close();
    });
    this.content.replaceWith(form);
    this.buttons.replaceChildren();
    area.focus();
  }
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
