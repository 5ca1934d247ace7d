// The engine tab: what the engine does, looked at once a second while somebody looks.

import { getJson } from "./api.js";
import { BlockGrid, Colours } from "./blocks.js";
import { Chart } from "./charts.js";
import { button, byId, element } from "./dom.js";
import { duration } from "./timing.js";

const INTERVAL = 1000;
const whole = (value) => String(Math.round(value));
const share = (value) => `${(100 * value).toFixed(0)} %`;

/** The engine view; it works between `start` and `stop`. */
export class EngineTab {
  #timer = 0;
  #previous = null;
  #chosen = null;
  #paused = false;
  #colours = new Colours();
  #rows = [];

  constructor() {
    this.grid = new BlockGrid(this.#colours);
    this.charts = {
      output: new Chart("Output tokens/s", whole),
      prompt: new Chart("Prompt tokens/s", whole),
      first: new Chart("Mean time to first token", duration),
      each: new Chart("Mean time per token", duration),
      step: new Chart("Tokens in a step", whole),
      running: new Chart("Running requests", whole),
      waiting: new Chart("Waiting requests", whole),
      cache: new Chart("KV cache in use", share),
      hits: new Chart("Prefix cache hit rate", share),
      preempted: new Chart("Preemptions", whole),
    };
    byId("charts").append(...Object.values(this.charts).map((chart) => chart.node));
    byId("pause").addEventListener("click", () => this.#pause(!this.#paused));
    document.addEventListener("visibilitychange", () => this.#previous && this.#look());
  }

  /** Look at the engine from now on. */
  start() {
    if (this.#timer) return;
    this.#timer = setInterval(() => this.#look(), INTERVAL);
    this.#look();
  }

  /** Look no more. */
  stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
    this.#previous = null;
    for (const chart of Object.values(this.charts)) chart.clear();
  }

  /** Go on after a pause. */
  resume() {
    this.#pause(false);
  }

  #pause(paused) {
    this.#paused = paused;
    byId("pause").setAttribute("aria-pressed", String(paused));
  }

  async #look() {
    if (!this.#timer || this.#paused || document.hidden) return;
    try {
      const view = await getJson("windlass/view", AbortSignal.timeout(10_000));
      byId("engine-error").hidden = true;
      if (this.#timer) this.#show(view);
    } catch (error) {
      byId("engine-error").textContent = error.status === undefined ? "The engine does not answer." : error.message;
      byId("engine-error").hidden = false;
      // A key that is missing or wrong is asked for once, not every second; the next one resumes.
      if (error.status === 401 || error.status === 403) this.#pause(true);
    }
  }

  #show(view) {
    byId("engine-device").textContent = `${view.model} on ${view.device}`;
    const sequences = view.engine.sequences;
    if (!sequences.some((sequence) => sequence.request_id === this.#chosen)) this.#chosen = null;
    this.#addSamples(view);
    this.grid.show(view.engine, this.#chosen);
    this.#showRequests(view.engine);
    this.#previous = view;
  }

  #addSamples(view) {
    const { charts } = this;
    const { stats } = view.engine;
    const before = this.#previous?.restarts === view.restarts ? this.#previous : null;
    charts.step.add(stats.last_step_tokens);
    charts.running.add(stats.num_running);
    charts.waiting.add(stats.num_waiting);
    charts.cache.add(stats.kv_cache_usage);
    charts.preempted.add(stats.num_preemptions);
    charts.hits.add(stats.prefix_cache_queries ? stats.prefix_cache_hits / stats.prefix_cache_queries : null);
    if (!before || view.uptime <= before.uptime) return;
    const seconds = view.uptime - before.uptime;
    const rate = (name) => Math.max(0, stats[name] - before.engine.stats[name]) / seconds;
    charts.output.add(rate("generation_tokens"));
    charts.prompt.add(rate("prompt_tokens"));
    charts.first.add(mean(before.first_token, view.first_token));
    charts.each.add(mean(before.inter_token, view.inter_token));
  }

  #showRequests(engine) {
    const { sequences, sequences_left_out: left } = engine;
    const more = left ? `, ${left} more are not listed` : "";
    byId("requests-summary").textContent = sequences.length ? `${sequences.length}${more}` : "none now";
    // Rows keep their nodes, so that who stands on one with the keyboard stays there.
    while (this.#rows.length > sequences.length) this.#rows.pop().node.remove();
    while (this.#rows.length < sequences.length) {
      const row = new RequestRow((id) => this.#choose(id));
      this.#rows.push(row);
      byId("requests").append(row.node);
    }
    for (const [index, sequence] of sequences.entries()) {
      this.#rows[index].show(sequence, this.#colours.of(sequence.request_id), this.#chosen);
    }
  }

  #choose(id) {
    this.#chosen = this.#chosen === id ? null : id;
    if (this.#previous) {
      this.grid.show(this.#previous.engine, this.#chosen);
      this.#showRequests(this.#previous.engine);
    }
  }
}

function mean(before, now) {
  const count = now.count - before.count;
  return count > 0 ? (now.sum - before.sum) / count : null;
}

/** One line of the table of requests. */
class RequestRow {
  constructor(choose) {
    this.id = "";
    this.swatch = element("span", { className: "swatch", "aria-hidden": "true" });
    this.name = button("", () => choose(this.id), { className: "plain mono" });
    this.cells = Array.from({ length: 7 }, () => element("td"));
    this.node = element("tr", {}, element("th", { scope: "row" }, this.swatch, this.name), ...this.cells);
  }

  show(sequence, colour, chosen) {
    this.id = sequence.request_id;
    this.swatch.style.backgroundColor = colour;
    this.name.textContent = this.id ? `…${this.id}` : "ending";
    this.name.setAttribute("aria-pressed", String(this.id === chosen));
    this.name.setAttribute("aria-label", `Show the blocks of ${this.id}`);
    const values = [
      sequence.state,
      sequence.num_prompt_tokens,
      sequence.num_cached_tokens,
      sequence.num_output_tokens,
      sequence.num_blocks,
      sequence.num_preemptions,
      duration(sequence.age),
    ];
    for (const [index, value] of values.entries()) this.cells[index].textContent = value;
  }
}
