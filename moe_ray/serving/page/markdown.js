// Markdown as DOM nodes, streamed: what a later text cannot change any more is rendered once.
import { copyButton, element } from "./dom.js";
import { inline } from "./inline.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t](.*)$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])[ \t]+(.*)$/;
const DELIMITER = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MAX_DEPTH = 8;
const NESTED_INDENT = 2;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;
const isTable = (lines, at) =>
  lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("|") && DELIMITER.test(lines[at + 1]);

const READERS = [
  { starts: (lines, at) => FENCE.test(lines[at]), read: (lines, at) => readCode(lines, at) },
  { starts: (lines, at) => HEADING.test(lines[at]), read: (lines, at) => readHeading(lines, at) },
  { starts: (lines, at) => RULE.test(lines[at]), read: (_, at) => ({ type: "rule", end: at + 1 }) },
  { starts: isTable, read: (lines, at) => readTable(lines, at) },
  { nests: true, starts: (lines, at) => QUOTE.test(lines[at]), read: (...where) => readQuote(...where) },
  { nests: true, starts: (lines, at) => ITEM.test(lines[at]), read: (...where) => readList(...where) },
];

const readerAt = (lines, at, depth) =>
  READERS.find(({ nests, starts }) => !(nests && depth >= MAX_DEPTH) && starts(lines, at));

// The blocks of `lines`, each with the lines from `start` to before `end`.
const parse = (lines, depth = 0) => {
  const blocks = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) { at += 1; continue; }
    const block = (readerAt(lines, at, depth)?.read ?? readParagraph)(lines, at, depth);
    blocks.push({ ...block, start: at });
    at = block.end;
  }
  return blocks;
};

const readParagraph = (lines, at, depth) => {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !readerAt(lines, end, depth)) end += 1;
  return { type: "paragraph", text: lines.slice(at, end).map((line) => line.trim()).join("\n"), end };
};

const readHeading = (lines, at) => {
  const [, marks, text] = HEADING.exec(lines[at]);
  return { type: "heading", level: marks.length, text: text.trim(), end: at + 1 };
};

// Without a closing fence, code goes on to the end.
const readCode = (lines, at) => {
  const [, fence, info] = FENCE.exec(lines[at]);
  const indent = indentOf(lines[at]);
  const closes = (line) => {
    const marks = line.trim();
    return marks.length >= fence.length && marks === fence[0].repeat(marks.length);
  };
  let last = at + 1;
  while (last < lines.length && !closes(lines[last])) last += 1;
  const code = lines.slice(at + 1, last).map((line) => line.slice(Math.min(indent, indentOf(line))));
  return { type: "code", language: info.trim().split(/\s/)[0], text: code.join("\n"), end: Math.min(last + 1, lines.length) };
};

const readQuote = (lines, at, depth) => {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  return { type: "quote", blocks: parse(lines.slice(at, end).map((line) => QUOTE.exec(line)[1]), depth + 1), end };
};

// The cells of a row; a bar in code or after a backslash does not end a cell.
const cells = (line) => {
  const found = [""];
  let isCode = false;
  for (let at = 0; at < line.length; at += 1) {
    if (line[at] === "\\" && line[at + 1] === "|") { found[found.length - 1] += "|"; at += 1; continue; }
    if (line[at] === "`") isCode = !isCode;
    if (line[at] === "|" && !isCode) found.push("");
    else found[found.length - 1] += line[at];
  }
  if (isBlank(found[0])) found.shift();
  if (found.length && isBlank(found.at(-1))) found.pop();
  return found.map((cell) => cell.trim());
};

const readTable = (lines, at) => {
  const aligns = cells(lines[at + 1]).map((cell) => {
    if (!cell.endsWith(":")) return "start";
    return cell.startsWith(":") ? "center" : "end";
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  return { type: "table", aligns, head: cells(lines[at]), rows: lines.slice(at + 2, end).map(cells), end };
};

// An indent of two columns nests, whatever the width of the marker: models are not exact about it.
const readList = (lines, at, depth) => {
  const [, { length: indent }, marker] = ITEM.exec(lines[at]);
  const isOrdered = /\d/.test(marker);
  const items = [];
  const nests = (line) => indentOf(line) >= indent + NESTED_INDENT;
  const itemAt = (line) => {
    const found = ITEM.exec(line);
    return found && found[1].length < indent + NESTED_INDENT && /\d/.test(found[2]) === isOrdered ? found : null;
  };
  let end = at;
  while (end < lines.length) {
    let next = end;
    while (next < lines.length && isBlank(lines[next])) next += 1;
    if (next === lines.length) break;
    const item = nests(lines[next]) ? null : itemAt(lines[next]);
    if (item) items.push([item[3]]);
    else if (nests(lines[next])) {
      if (next > end) items.at(-1).push("");
      items.at(-1).push(lines[next].slice(indent + NESTED_INDENT));
    } else if (next > end || readerAt(lines, next, depth)) break;
    else items.at(-1).push(lines[next]);
    end = next + 1;
  }
  return { type: "list", first: isOrdered ? parseInt(marker, 10) : null, items: items.map((item) => parse(item, depth + 1)), end };
};

const scrollable = (label, child) => {
  const box = element("div", { className: "scroll", tabIndex: 0 }, child);
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", label);
  return box;
};

const tableRow = (tag, { aligns, head }, texts) => {
  const row = element("tr");
  head.forEach((_, column) => {
    const cell = element(tag, {}, inline(texts[column] ?? ""));
    cell.style.textAlign = aligns[column] ?? "start";
    row.append(cell);
  });
  return row;
};

const RENDERERS = {
  paragraph: ({ text }) => element("p", { dir: "auto" }, inline(text)),
  // The page has an h1 and an h2 for each question.
  heading: ({ level, text }) => element(`h${Math.min(6, level + 2)}`, { dir: "auto" }, inline(text)),
  rule: () => element("hr"),
  code: ({ language, text }) => {
    const code = element("code", { tabIndex: 0 }, text);
    const head = element("div", { className: "code-head" }, element("span", {}, language || "text"));
    head.append(copyButton("Copy the code", () => code.textContent, code));
    return element("div", { className: "code" }, head, element("pre", { dir: "ltr" }, code));
  },
  quote: ({ blocks }) => renderInto(element("blockquote"), blocks),
  table: (block) => {
    const body = element("tbody");
    for (const row of block.rows) body.append(tableRow("td", block, row));
    return scrollable("Table", element("table", {}, element("thead", {}, tableRow("th", block, block.head)), body));
  },
  list: ({ first, items }) => {
    const list = first === null ? element("ul") : element("ol", { start: first });
    for (const blocks of items) list.append(renderInto(element("li", { dir: "auto" }), blocks));
    return list;
  },
};

const render = (block) => RENDERERS[block.type](block);

const renderInto = (parent, blocks) => {
  for (const block of blocks) parent.append(render(block));
  return parent;
};

export class Markdown {
  #root;
  #settled = 0;
  #open = [];

  constructor(root) { this.#root = root; }

  // Show `text`, which begins with the text of the last call.
  update(text) {
    const lines = text.slice(this.#settled).split("\n");
    const blocks = parse(lines);
    blocks.forEach((block, at) => this.#show(at, block, lines.slice(block.start, block.end).join("\n")));
    for (const { node } of this.#open.splice(blocks.length)) node.remove();
    this.#settle(lines, blocks);
  }

  #show(at, block, source) {
    const old = this.#open[at];
    if (old?.source === source) return;
    if (old && old.type === "code" && block.type === "code" && old.language === block.language) {
      old.node.querySelector("code").textContent = block.text;
      Object.assign(old, { source });
      return;
    }
    const node = render(block);
    if (old) old.node.replaceWith(node);
    else this.#root.append(node);
    this.#open[at] = { source, node, type: block.type, language: block.language };
  }

  // Blocks before that of the last complete line are final. The unfinished line may yet join that block.
  #settle(lines, blocks) {
    const last = lines.findLastIndex((line, at) => at < lines.length - 1 && !isBlank(line));
    const keep = blocks.findLastIndex((block) => block.start <= last);
    if (keep <= 0) return;
    for (const line of lines.slice(0, blocks[keep].start)) this.#settled += line.length + 1;
    this.#open.splice(0, keep);
  }
}
