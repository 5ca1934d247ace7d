// Completion mode: a prompt, its continuation, and how probable each token was.

import { streamChunks } from "./api.js";
import { announce, byId, element, notice } from "./dom.js";
import { requestParams } from "./settings.js";
import { Timing, statsLine } from "./timing.js";

const MAX_TOKENS = 64;
const SHOWN_TOKENS = 4000;

/** The completion view; `model()` returns the name of the chosen model. */
export class Completion {
  #running = null;
  #tokens = [];

  constructor(model) {
    this.model = model;
    byId("text-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start();
    });
    byId("text-stop").addEventListener("click", () => this.stop());
    byId("tokens").addEventListener("keydown", (event) => this.#move(event));
    byId("tokens").addEventListener("focusin", (event) => this.#show(event.target));
    byId("tokens").addEventListener("click", (event) => event.target.focus());
  }

  /** Stop the completion that runs; returns whether there was one. */
  stop() {
    this.#running?.abort();
    return this.#running !== null;
  }

  async #start() {
    if (this.#running) return;
    notice("");
    let params;
    try {
      params = requestParams({ chat: false });
    } catch (error) {
      notice(error.message);
      return;
    }
    const body = { max_tokens: MAX_TOKENS, ...params, model: this.model(), prompt: byId("prompt").value };
    if (byId("logprobs").value) body.logprobs = Number(byId("logprobs").value);
    if (byId("echo").checked) body.echo = true;
    this.#clear();
    await this.#run({ ...body, stream: true, stream_options: { include_usage: true } });
  }

  async #run(body) {
    const timing = new Timing();
    this.#running = new AbortController();
    this.#busy(true);
    let finish = "";
    try {
      for await (const chunk of streamChunks("v1/completions", body, this.#running.signal)) {
        if (chunk.usage) timing.usage = chunk.usage;
        const choice = chunk.choices?.[0];
        if (!choice) continue;
        if (choice.finish_reason) finish = choice.finish_reason;
        if (choice.text || choice.logprobs) timing.piece();
        this.#add(choice);
      }
      announce("The completion is complete.");
    } catch (error) {
      if (error.name === "AbortError") finish = "your stop";
      else notice(error.message);
    }
    this.#running = null;
    this.#busy(false);
    byId("text-stats").textContent = statsLine({ ...timing.result(), finish });
  }

  #busy(busy) {
    const hadFocus = [byId("complete"), byId("text-stop")].includes(document.activeElement);
    byId("complete").hidden = busy;
    byId("text-stop").hidden = !busy;
    if (hadFocus) byId(busy ? "text-stop" : "complete").focus();
  }

  #clear() {
    this.#tokens = [];
    byId("tokens").replaceChildren();
    byId("text-stats").textContent = "";
    byId("token").hidden = true;
  }

  #add(choice) {
    const box = byId("tokens");
    if (!choice.logprobs) {
      box.append(choice.text ?? "");
      return;
    }
    const { tokens = [], token_logprobs: values = [], top_logprobs: tops = [] } = choice.logprobs;
    for (const [index, text] of tokens.entries()) {
      if (this.#tokens.length >= SHOWN_TOKENS) return;
      this.#addToken(text, values[index] ?? null, tops[index] ?? {});
    }
  }

  #addToken(text, value, top) {
    const probability = value === null ? null : Math.exp(value);
    const node = element("span", {
      className: `lp lp-${level(probability)}`,
      tabIndex: this.#tokens.length ? -1 : 0,
      role: "button",
      "aria-label": `${printable(text)}, ${percent(probability)}`,
    }, text);
    this.#tokens.push({ node, text, value, top });
    byId("tokens").append(node);
  }

  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = this.#tokens.findIndex(({ node }) => node === document.activeElement);
    this.#tokens[at + step]?.node.focus();
  }

  #show(node) {
    const token = this.#tokens.find((candidate) => candidate.node === node);
    if (!token) return;
    for (const { node: other } of this.#tokens) other.tabIndex = other === node ? 0 : -1;
    byId("token").hidden = false;
    byId("token-text").textContent = printable(token.text);
    const entries = Object.entries(token.top);
    if (token.value !== null && !(token.text in token.top)) entries.push([token.text, token.value]);
    const rows = entries.sort((a, b) => b[1] - a[1]).map(([text, value]) => {
      const row = element("tr", {},
        element("td", {}, element("code", {}, printable(text))),
        element("td", {}, percent(Math.exp(value))),
        element("td", {}, value.toFixed(3)));
      if (text === token.text) row.className = "chosen";
      return row;
    });
    byId("alternatives").replaceChildren(...rows);
  }
}

/** Return a level from 0, improbable, to 4, nearly sure; 5 is unknown. */
function level(probability) {
  if (probability === null) return 5;
  return [0.05, 0.25, 0.6, 0.9].filter((bound) => probability >= bound).length;
}

function percent(probability) {
  return probability === null ? "no probability" : `${(100 * probability).toFixed(1)} %`;
}

function printable(text) {
  return text.replaceAll("\n", "⏎").replaceAll(" ", "␣") || "∅";
}
