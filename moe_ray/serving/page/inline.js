// The inside of a Markdown block: emphasis, code, links. Runs in linear time on any text, which may be hostile.
import { element } from "./dom.js";

const TOKEN = new RegExp([
  /\\(?<escaped>[\\`*_#|~-])/,
  /(?<ticks>`+)/,
  /(?<marks>\*+|_+|~~)/,
  /!?\[(?<label>[^[\]\n]{1,1000})\]\(\s{0,9}(?<target>[^\s()]{1,2000}(?:\([^\s()]{0,2000}\)[^\s()]{0,2000})?)(?:\s{1,9}"[^"\n]{0,1000}")?\s{0,9}\)/,
  /<(?<bracketed>https?:\/\/[^\s<>]+)>/,
  /(?<bare>https?:\/\/[^\s<>"`]+)/,
  /(?<newline><br\s?\/?>)/,
].map((part) => part.source).join("|"), "g");
const TAGS = { "**": "strong", "__": "strong", "*": "em", "_": "em", "~~": "del" };
const MAX_OPEN = 16;
const WORD = /[\p{L}\p{N}]/u;
const SPACE = /^\s?$/;

// The address if it leads to the web, else null: `javascript:` and its like are no links.
const webAddress = (target) => (/^https?:\/\//i.test(target) && URL.canParse(target) ? new URL(target).href : null);

const link = (address, ...children) =>
  element("a", { href: address, rel: "noopener noreferrer", target: "_blank", title: address }, ...children);

// A bare address ends before the punctuation of the sentence around it.
const trimAddress = (text) => {
  let end = text.length;
  const hasBracket = text.includes("(");
  while (end > 0 && (".,;:!?'*_]|".includes(text[end - 1]) || (text[end - 1] === ")" && !hasBracket))) end -= 1;
  return text.slice(0, end);
};

class CodeSpans {
  #text;
  #unclosed = new Set();

  constructor(text) { this.#text = text; }

  // Where the next run of exactly `length` backticks from `from` on starts; -1 if there is none.
  closing(length, from) {
    if (this.#unclosed.has(length)) return -1;
    const ticks = "`".repeat(length);
    let at = this.#text.indexOf(ticks, from);
    while (at >= 0) {
      let end = at + length;
      while (this.#text[end] === "`") end += 1;
      if (end === at + length) return at;
      at = this.#text.indexOf(ticks, end);
    }
    this.#unclosed.add(length);
    return -1;
  }
}

// Nodes under construction: a stack of emphasis that is still open.
class Builder {
  #frames = [{ mark: "", content: document.createDocumentFragment() }];

  write(part) { this.#frames.at(-1).content.append(part); }

  // Close the innermost open emphasis that part of `marks` matches; returns the marks left over.
  close(marks) {
    let left = marks;
    while (left) {
      const at = this.#frames.findLastIndex(({ mark }) => mark && left.startsWith(mark));
      if (at < 0) break;
      while (this.#frames.length > at + 1) this.#flatten();
      const { mark, content } = this.#frames.pop();
      this.write(element(TAGS[mark], {}, content));
      left = left.slice(mark.length);
    }
    return left;
  }

  // Returns false where `marks` cannot open emphasis.
  open(marks) {
    const parts = marks.length === 3 ? [marks.slice(0, 2), marks[0]] : [marks];
    if (!parts.every((part) => part in TAGS) || this.#frames.length + parts.length > MAX_OPEN) return false;
    for (const mark of parts) this.#frames.push({ mark, content: document.createDocumentFragment() });
    return true;
  }

  // Emphasis that was never closed is text.
  #flatten() {
    const { mark, content } = this.#frames.pop();
    this.write(mark);
    this.write(content);
  }

  finish() {
    while (this.#frames.length > 1) this.#flatten();
    return this.#frames[0].content;
  }
}

const writeMarks = (builder, marks, before, after) => {
  const isInWord = marks[0] === "_" && WORD.test(before) && WORD.test(after);
  let left = marks;
  if (!SPACE.test(before) && !isInWord) left = builder.close(left);
  if (left && (SPACE.test(after) || isInWord || !builder.open(left))) builder.write(left);
};

// A fragment of the nodes that show `text`.
export const inline = (text, hasLinks = true) => {
  const builder = new Builder();
  const codeSpans = new CodeSpans(text);
  const token = new RegExp(TOKEN);
  let at = 0;
  for (let found = token.exec(text); found; found = token.exec(text)) {
    builder.write(text.slice(at, found.index));
    at = token.lastIndex;
    const { escaped, ticks, marks, label, target, bracketed, bare, newline } = found.groups;
    if (escaped) builder.write(escaped);
    else if (newline) builder.write(element("br"));
    else if (marks) writeMarks(builder, marks, text[found.index - 1] ?? "", text[at] ?? "");
    else if (ticks) {
      const end = codeSpans.closing(ticks.length, at);
      if (end < 0) builder.write(ticks);
      else {
        builder.write(element("code", {}, text.slice(at, end).replace(/^ (.*) $/s, "$1")));
        at = token.lastIndex = end + ticks.length;
      }
    } else {
      const written = bare ? trimAddress(bare) : found[0];
      at = token.lastIndex = found.index + written.length;
      const address = hasLinks ? webAddress(target ?? bracketed ?? written) : null;
      if (address) builder.write(link(address, label ? inline(label, false) : bracketed ?? written));
      else builder.write(written);
    }
  }
  builder.write(text.slice(at));
  return builder.finish();
};
