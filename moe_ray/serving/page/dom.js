// Builds DOM nodes. Text of models and users enters the page as text nodes only, never as markup.

export const element = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

export const button = (text, onClick, className = "quiet") => {
  const node = element("button", { type: "button", className }, text);
  node.addEventListener("click", onClick);
  return node;
};

const live = document.getElementById("live");

// Tell screen readers. Streamed text is not announced, only what happens to the answer.
export const announce = (text) => { live.textContent = text; };

const NOTICE_MS = 1500;

// The clipboard needs HTTPS or localhost; elsewhere `source` is selected, and copied the old way.
const copy = async (text, source) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  getSelection().selectAllChildren(source);
  if (!document.execCommand("copy")) throw new Error("the browser does not allow copying");
};

// A button that copies `text()`, which `source` shows.
export const copyButton = (label, text, source) => {
  const node = button("Copy", async () => {
    const outcome = await copy(text(), source).then(() => "Copied", () => "Not copied");
    node.textContent = outcome;
    announce(outcome);
    setTimeout(() => { node.textContent = "Copy"; }, NOTICE_MS);
  });
  node.setAttribute("aria-label", label);
  return node;
};
