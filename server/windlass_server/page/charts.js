// Small line charts, as SVG, each with its numbers in words.

import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 56;
const POINTS = 90;

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** One value over time; `format` makes a number text. Null values leave a gap. */
export class Chart {
  #values = [];

  constructor(title, format) {
    this.title = title;
    this.format = format;
    this.value = element("strong", { className: "value" }, "–");
    this.note = element("span", { className: "muted small" });
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.picture = svg("svg", {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": title,
    });
    this.picture.append(this.area, this.line);
    const caption = element("figcaption", {}, element("span", { className: "muted" }, title), this.value);
    this.node = element("figure", { className: "card chart" }, caption, this.picture, this.note);
  }

  /** Add the next value. */
  add(value) {
    this.#values.push(value);
    if (this.#values.length > POINTS) this.#values.shift();
    this.#draw();
  }

  /** Forget everything. */
  clear() {
    this.#values = [];
  }

  #draw() {
    const known = this.#values.filter((value) => value !== null);
    const last = this.#values.at(-1);
    const most = known.length ? Math.max(...known) : 0;
    this.value.textContent = last === null ? "–" : this.format(last);
    this.note.textContent = known.length ? `highest ${this.format(most)}` : "nothing yet";
    this.picture.setAttribute("aria-label", `${this.title}: now ${this.value.textContent}, ${this.note.textContent}`);
    const runs = this.#runs(most || 1);
    this.line.setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
    this.area.setAttribute("d", runs.map(filled).join(""));
  }

  /** Cut the values into runs without a gap, as "x y" points. */
  #runs(most) {
    const runs = [];
    let run = null;
    const offset = POINTS - this.#values.length;
    for (const [index, value] of this.#values.entries()) {
      if (value === null) {
        run = null;
        continue;
      }
      if (!run) runs.push((run = []));
      const x = ((index + offset) / (POINTS - 1)) * WIDTH;
      const y = HEIGHT - 2 - (value / most) * (HEIGHT - 6);
      run.push(`${x.toFixed(1)} ${y.toFixed(1)}`);
    }
    return runs;
  }
}

function filled(run) {
  const [first] = run[0].split(" ");
  const [last] = run.at(-1).split(" ");
  return `M${first} ${HEIGHT}L${run.join("L")}L${last} ${HEIGHT}Z`;
}
