// Markdown inside a line of text, into DOM nodes, in time linear in the text.

import { element } from "./dom.js";

const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
const ESCAPABLE = "\\`*_{}[]()#+-.!|~>";
const MAX_OPEN = 16;

/** Return nodes for a piece of inline Markdown. */
export function inline(text) {
  return new Inline(text, true).nodes();
}

/** Return the address if a link may go there, else null. */
export function safeAddress(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function link(address, ...children) {
  const href = safeAddress(address);
  if (href === null) return element("span", {}, ...children);
  return element("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children);
}

class Inline {
  // Nodes so far; an opened emphasis is a string in `#items` until it is closed.
  #items = [];
  #open = [];
  #plain = "";
  #noCodeEnd = new Set();
  #brackets;

  constructor(text, bareLinks) {
    this.text = text;
    this.bareLinks = bareLinks;
    this.at = 0;
    this.#brackets = matchBrackets(text);
  }

  nodes() {
    while (this.at < this.text.length) this.#step(this.text[this.at]);
    this.#flush();
    return this.#items.map((item) => item.marker ?? item);
  }

  #step(char) {
    const { text, at } = this;
    if (char === "\\" && at + 1 < text.length && ESCAPABLE.includes(text[at + 1])) {
      this.#plain += text[at + 1];
      this.at += 2;
    } else if (char === "\n") {
      const hard = this.#plain.endsWith("  ");
      this.#plain = this.#plain.trimEnd();
      this.at += 1;
      if (hard) this.#put(element("br"));
      else this.#plain += "\n";
    } else if (char === "`") this.#code();
    else if (char === "[") this.#link(at);
    else if (char === "!" && text[at + 1] === "[") this.#image();
    else if (char === "h" && this.bareLinks && /^https?:\/\/[^\s<>]/.test(text.slice(at, at + 9))) this.#bareLink();
    else if (char === "*" || char === "_" || char === "~") this.#emphasis(char);
    else {
      this.#plain += char;
      this.at += 1;
    }
  }

  #flush() {
    if (this.#plain) this.#items.push(this.#plain);
    this.#plain = "";
  }

  #put(node) {
    this.#flush();
    this.#items.push(node);
  }

  #run(char) {
    let end = this.at;
    while (this.text[end] === char) end += 1;
    return end - this.at;
  }

  #code() {
    const { text, at } = this;
    const length = this.#run("`");
    const ticks = "`".repeat(length);
    const start = at + length;
    let end = this.#noCodeEnd.has(length) ? -1 : text.indexOf(ticks, start);
    while (end >= 0 && (text[end + length] === "`" || text[end - 1] === "`")) {
      end += 1;
      while (text[end] === "`") end += 1;
      end = text.indexOf(ticks, end);
    }
    if (end < 0) {
      this.#noCodeEnd.add(length);
      this.#plain += ticks;
      this.at = start;
      return;
    }
    let code = text.slice(start, end).replaceAll("\n", " ");
    if (code.length > 2 && code.startsWith(" ") && code.endsWith(" ")) code = code.slice(1, -1);
    this.#put(element("code", {}, code));
    this.at = end + length;
  }

  /** Return [label, address, end] of the link whose bracket stands at `open`, or null. */
  #target(open) {
    const close = this.#brackets.get(open);
    if (close === undefined || this.text[close + 1] !== "(") return null;
    const end = this.#brackets.get(close + 1);
    if (end === undefined) return null;
    const inside = this.text.slice(close + 2, end).trim();
    const space = inside.search(/\s/);
    const address = space < 0 ? inside : inside.slice(0, space);
    return [this.text.slice(open + 1, close), address.replace(/^<|>$/g, ""), end];
  }

  #link(open) {
    const target = this.#target(open);
    if (target === null) {
      this.#plain += "[";
      this.at += 1;
      return;
    }
    const [label, address, end] = target;
    this.#put(link(address, ...new Inline(label.replaceAll("[", "\\["), false).nodes()));
    this.at = end + 1;
  }

  /** An image is never fetched: it is shown as a link to it. */
  #image() {
    const target = this.#target(this.at + 1);
    if (target === null) {
      this.#plain += "!";
      this.at += 1;
      return;
    }
    const [label, address, end] = target;
    this.#put(link(address, `🖼 ${label || address}`));
    this.at = end + 1;
  }

  #bareLink() {
    const start = this.at;
    let end = start;
    while (end < this.text.length && !" \n\t<>\"`*".includes(this.text[end])) end += 1;
    while (end > start && ".,;:!?)]'".includes(this.text[end - 1])) end -= 1;
    const address = this.text.slice(start, end);
    this.#put(link(address, address));
    this.at = end;
  }

  #emphasis(char) {
    const { text, at } = this;
    const run = this.#run(char);
    const before = at > 0 ? text[at - 1] : " ";
    const after = text[at + run] ?? " ";
    // Of `***` the one that was opened last is closed first.
    const innermost = run > 2 && this.#open.at(-1)?.marker === char;
    const length = char === "~" ? 2 : innermost ? 1 : Math.min(run, 2);
    const marker = char.repeat(length);
    const inWord = char === "_" && /[\p{L}\p{N}]/u.test(before) && /[\p{L}\p{N}]/u.test(after);
    if (run < length || inWord) {
      this.#plain += char.repeat(run);
      this.at += run;
      return;
    }
    this.at += length;
    const opener = /\s/.test(before) ? -1 : this.#open.findLastIndex((o) => o.marker === marker);
    if (opener >= 0) this.#close(opener);
    else if (/\s/.test(after) || this.#open.length >= MAX_OPEN) this.#plain += marker;
    else {
      this.#flush();
      this.#open.push({ marker, index: this.#items.length });
      this.#items.push({ marker });
    }
  }

  #close(opener) {
    this.#flush();
    const { marker, index } = this.#open[opener];
    this.#open.length = opener;
    const inside = this.#items.splice(index).slice(1).map((item) => item.marker ?? item);
    this.#items.push(element(TAGS[marker], {}, ...inside));
  }
}

/** Return a map from each opening bracket, square or round, to the one that closes it. */
function matchBrackets(text) {
  const pairs = new Map();
  const open = { "]": [], ")": [] };
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at];
    if (char === "\\") at += 1;
    else if (char === "[") open["]"].push(at);
    else if (char === "(") open[")"].push(at);
    else if (char === "]" || char === ")") {
      const start = open[char].pop();
      if (start !== undefined) pairs.set(start, at);
    }
  }
  return pairs;
}
