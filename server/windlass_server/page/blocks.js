// The KV cache as a grid: a cell per block, in the colours of the requests that hold it.

import { byId } from "./dom.js";

const HUES = [205, 28, 145, 275, 50, 330, 180, 5, 240, 85, 300, 110];
const LARGEST = 26;
const SMALLEST = 7;
const TALLEST = 420;
const STRIPES = 4;
// A large cache is mostly empty: the free blocks behind the last used one are left out.
const FEWEST = 96;

/** Gives every request a colour and keeps it. */
export class Colours {
  #hues = new Map();
  #next = 0;

  /** Return the colour of a request as CSS. */
  of(id) {
    let hue = this.#hues.get(id);
    if (hue === undefined) {
      hue = HUES[this.#next % HUES.length];
      this.#next += 1;
      this.#hues.set(id, hue);
      if (this.#hues.size > 2000) this.#hues.delete(this.#hues.keys().next().value);
    }
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    return dark ? `hsl(${hue} 55% 62%)` : `hsl(${hue} 52% 48%)`;
  }
}

/** Draws the blocks of a view on the canvas. */
export class BlockGrid {
  #view = null;
  #holders = new Map();
  #layout = { columns: 1, cell: LARGEST };
  #cells = FEWEST;

  constructor(colours) {
    this.colours = colours;
    this.canvas = byId("blocks");
    this.chosen = null;
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => { byId("block-hint").textContent = ""; });
    new ResizeObserver(() => this.draw()).observe(byId("blocks-box"));
  }

  /** Show a view; `chosen` is the id of a request whose blocks stand out, or null. */
  show(view, chosen) {
    this.#view = view;
    this.chosen = chosen;
    // The grid grows and does not shrink, so that cells stay where they are.
    const used = view.blocks.findLastIndex((state) => state !== 0) + 1;
    this.#cells = Math.min(view.blocks.length, Math.max(this.#cells, used));
    this.#holders = new Map();
    for (const sequence of view.sequences) {
      for (const block of sequence.block_ids) {
        if (!this.#holders.has(block)) this.#holders.set(block, []);
        this.#holders.get(block).push(sequence.request_id);
      }
    }
    this.draw();
    this.#describe();
  }

  /** Draw what was shown last, for the room that there is now. */
  draw() {
    if (!this.#view) return;
    const width = byId("blocks-box").clientWidth;
    const all = this.#view.blocks.length;
    let count = this.#cells;
    if (!width || !count) return;
    const cell = cellSize(width, count);
    const columns = Math.max(1, Math.floor(width / cell));
    const rows = Math.ceil(count / columns);
    count = Math.min(all, rows * columns);
    this.#layout = { columns, cell };
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = columns * cell * ratio;
    this.canvas.height = rows * cell * ratio;
    this.canvas.style.width = `${columns * cell}px`;
    this.canvas.style.height = `${rows * cell}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const paint = (name) => style.getPropertyValue(name).trim();
    const colours = { free: paint("--block-free"), cached: paint("--block-cached"), mark: paint("--block-mark"), count: paint("--block-count") };
    for (let index = 0; index < count; index += 1) {
      const x = (index % columns) * cell;
      const y = Math.floor(index / columns) * cell;
      this.#cell(pen, index, x, y, cell - (cell > 10 ? 2 : 1), colours);
    }
  }

  #cell(pen, index, x, y, size, colours) {
    const state = this.#view.blocks[index];
    const holders = this.#holders.get(index + 1) ?? [];
    pen.globalAlpha = this.chosen && !holders.includes(this.chosen) ? 0.25 : 1;
    if (state <= 0) {
      pen.fillStyle = state ? colours.cached : colours.free;
      pen.fillRect(x, y, size, size);
      return;
    }
    const stripes = holders.slice(0, STRIPES);
    for (const [stripe, id] of stripes.entries()) {
      pen.fillStyle = this.colours.of(id);
      const left = Math.round((stripe * size) / stripes.length);
      const right = Math.round(((stripe + 1) * size) / stripes.length);
      pen.fillRect(x + left, y, right - left, size);
    }
    if (!stripes.length) {
      pen.fillStyle = colours.mark;
      pen.fillRect(x, y, size, size);
    }
    if (state > 1 && size >= 12) this.#count(pen, state, x + size / 2, y + size / 2, size, colours);
  }

  #count(pen, state, x, y, size, colours) {
    pen.fillStyle = colours.mark;
    pen.beginPath();
    pen.arc(x, y, size * 0.36, 0, 2 * Math.PI);
    pen.fill();
    pen.fillStyle = colours.count;
    pen.font = `600 ${Math.round(size * 0.46)}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(state > 99 ? "99+" : String(state), x, y + 0.5);
  }

  #point(event) {
    const { columns, cell } = this.#layout;
    const column = Math.floor(event.offsetX / cell);
    const index = Math.floor(event.offsetY / cell) * columns + column;
    const state = this.#view?.blocks[index];
    if (state === undefined || column >= columns) return;
    const holders = this.#holders.get(index + 1) ?? [];
    const who = state < 0 ? "free, still cached" : state ? `held by ${[...new Set(holders)].join(", ") || "others"}` : "free";
    byId("block-hint").textContent = `Block ${index + 1}: ${who}${state > 1 ? ` (${state} block tables)` : ""}`;
  }

  #describe() {
    const { blocks, stats } = this.#view;
    const count = (test) => blocks.filter(test).length;
    const parts = [
      `${count((state) => state > 0)} held`,
      `${count((state) => state > 1)} shared`,
      `${count((state) => state < 0)} free and cached`,
      `${count((state) => state === 0)} free`,
    ];
    const known = blocks.length < stats.num_blocks ? `the first ${blocks.length} of ` : "";
    const text = `${known}${stats.num_blocks} blocks of ${this.#view.block_size} tokens: ${parts.join(", ")}`;
    byId("blocks-summary").textContent = text;
    this.canvas.setAttribute("aria-label", `KV blocks, ${text}. The table of requests has the numbers by request.`);
  }
}

function cellSize(width, count) {
  for (let cell = LARGEST; cell > SMALLEST; cell -= 1) {
    if (Math.ceil(count / Math.floor(width / cell)) * cell <= TALLEST) return cell;
  }
  return SMALLEST;
}
