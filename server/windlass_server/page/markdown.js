// Markdown blocks into DOM nodes. What a model wrote is only ever the text of a node, the href of
// a link that was checked, or the name of a language.

import { copyText, button, element } from "./dom.js";
import { inline } from "./inline.js";

const MAX_DEPTH = 8;
const FENCE = /^ {0,3}(```+|~~~+)\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}(?:-\s*-\s*-[-\s]*|\*\s*\*\s*\*[*\s]*|_\s*_\s*_[_\s]*)$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?: +|$)/;
const TABLE_RULE = /^[ :|-]+$/;

/** Return a fragment for a whole text. */
export function renderMarkdown(text) {
  const fragment = document.createDocumentFragment();
  const lines = splitLines(text);
  for (const block of blocks(lines)) fragment.append(renderBlock(block, 0));
  return fragment;
}

/** Shows a text that grows: blocks that did not change keep their nodes. */
export class MarkdownView {
  #shown = [];

  constructor(container) {
    this.container = container;
  }

  /** Show `text`, whose beginning usually is what was shown last. */
  update(text) {
    const wanted = blocks(splitLines(text));
    let same = 0;
    while (same < wanted.length && this.#shown[same] === key(wanted[same])) same += 1;
    while (this.container.children.length > same) this.container.lastElementChild.remove();
    for (const block of wanted.slice(same)) this.container.append(renderBlock(block, 0));
    this.#shown = wanted.map(key);
  }
}

function key(block) {
  return `${block.kind}\n${block.lines.join("\n")}`;
}

function splitLines(text) {
  return text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n");
}

/** Cut lines into blocks: {kind, lines, ...}. */
function blocks(lines) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const block = readBlock(lines, at);
    found.push(block);
    at = block.end;
  }
  return found;
}

function readBlock(lines, at) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, at, fence);
  if (HEADING.test(line)) return { kind: "heading", lines: [line], end: at + 1 };
  if (RULE.test(line)) return { kind: "rule", lines: [line], end: at + 1 };
  if (QUOTE.test(line)) return readWhile(lines, at, "quote", (next) => QUOTE.test(next));
  if (ITEM.test(line)) return readList(lines, at);
  if (startsTable(lines, at)) {
    return readWhile(lines, at, "table", (next) => next.includes("|") && next.trim());
  }
  return readWhile(lines, at, "paragraph", (next, index) => next.trim() && !startsBlock(lines, index));
}

function readWhile(lines, at, kind, belongs) {
  let end = at + 1;
  while (end < lines.length && belongs(lines[end], end)) end += 1;
  return { kind, lines: lines.slice(at, end), end };
}

function startsTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length
    && lines[at + 1].includes("|") && lines[at + 1].includes("-") && TABLE_RULE.test(lines[at + 1]);
}

function startsBlock(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)
    || ITEM.test(line) || startsTable(lines, at);
}

function readFence(lines, at, [, marks, language]) {
  let end = at + 1;
  const closes = (line) => {
    const trimmed = line.trim();
    return trimmed.length >= marks.length && trimmed === marks[0].repeat(trimmed.length);
  };
  while (end < lines.length && !closes(lines[end])) end += 1;
  const body = lines.slice(at + 1, end);
  return { kind: "code", language, body, lines: lines.slice(at, end + 1), end: end + 1 };
}

function readList(lines, at) {
  const ordered = /\d/.test(ITEM.exec(lines[at])[2]);
  const items = [];
  let end = at;
  while (end < lines.length) {
    const marker = ITEM.exec(lines[end]);
    if (!marker || /\d/.test(marker[2]) !== ordered || RULE.test(lines[end])) break;
    const indent = Math.max(2, marker[1].length + marker[2].length);
    const item = [lines[end].slice(marker[0].length)];
    end += 1;
    while (end < lines.length && belongsToItem(lines, end, indent)) {
      const spaces = lines[end].length - lines[end].trimStart().length;
      item.push(lines[end].slice(Math.min(spaces, marker[0].length)));
      end += 1;
    }
    items.push(item);
  }
  const start = ordered ? Number.parseInt(lines[at].trimStart(), 10) : 1;
  return { kind: "list", ordered, start, items, lines: lines.slice(at, end), end };
}

function belongsToItem(lines, at, indent) {
  const line = lines[at];
  if (!line.trim()) {
    const next = lines[at + 1] ?? "";
    return next.trim() !== "" && (next.startsWith(" ".repeat(indent)) || ITEM.test(next));
  }
  if (line.startsWith(" ".repeat(indent))) return true;
  return lines[at - 1].trim() !== "" && !startsBlock(lines, at);
}

function renderBlock(block, depth) {
  switch (block.kind) {
    case "heading": {
      const [, marks, text] = HEADING.exec(block.lines[0]);
      // The page's own headings end at the third level.
      return element(`h${Math.min(6, 3 + marks.length)}`, {}, ...inline(text.replace(/\s#+\s*$/, "")));
    }
    case "rule": return element("hr");
    case "code": return renderCode(block);
    case "table": return renderTable(block.lines);
    case "list": return renderList(block, depth);
    case "quote": {
      const inside = block.lines.map((line) => line.replace(QUOTE, ""));
      return element("blockquote", {}, ...renderInside(inside, depth));
    }
    default: return element("p", {}, ...inline(block.lines.map((line) => line.trimStart()).join("\n")));
  }
}

function renderInside(lines, depth) {
  if (depth >= MAX_DEPTH) return [element("p", {}, lines.join("\n"))];
  return blocks(lines).map((block) => renderBlock(block, depth + 1));
}

function renderList(block, depth) {
  const list = element(block.ordered ? "ol" : "ul");
  if (block.ordered && block.start !== 1) list.start = block.start;
  for (const item of block.items) {
    const inside = renderInside(item, depth);
    const tight = inside[0]?.tagName === "P" && !item.slice(0, -1).includes("");
    const children = tight ? [...inside[0].childNodes, ...inside.slice(1)] : inside;
    list.append(element("li", {}, ...children));
  }
  return list;
}

function renderCode({ language, body }) {
  const text = body.join("\n");
  const copy = button("Copy", () => copyText(text, copy), { "aria-label": "Copy code" });
  const label = language ? `Code, ${language}` : "Code";
  return element(
    "figure",
    { className: "code" },
    element("figcaption", {}, element("span", {}, language || "text"), copy),
    element("pre", { tabIndex: 0, role: "region", "aria-label": label }, element("code", {}, text)),
  );
}

function cells(line) {
  const trimmed = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return trimmed.split("|").map((cell) => cell.trim());
}

function renderTable(lines) {
  const [head, rule, ...rows] = lines.map(cells);
  const aligns = rule.map((mark) => {
    if (!mark.endsWith(":")) return "";
    return mark.startsWith(":") ? "center" : "end";
  });
  const row = (tag, values) => element("tr", {}, ...head.map((_, column) => {
    const properties = tag === "th" ? { scope: "col" } : {};
    const cell = element(tag, properties, ...inline(values[column] ?? ""));
    if (aligns[column]) cell.classList.add(`align-${aligns[column]}`);
    return cell;
  }));
  const table = element(
    "table",
    {},
    element("thead", {}, row("th", head)),
    element("tbody", {}, ...rows.map((values) => row("td", values))),
  );
  return element("div", { className: "table-box", tabIndex: 0, role: "region", "aria-label": "Table" }, table);
}
