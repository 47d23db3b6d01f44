// Chooses the model of one column: a button that opens a list of radio buttons.
import { AUTO } from "./api.js";
import { button, element } from "./dom.js";
import { models } from "./models.js";

const STATES = { loaded: "loaded", loading: "loading", unloaded: "not loaded" };
const MARGIN_PX = 8;

const dot = (state) => element("span", { className: `dot ${state}` });

const detail = ({ moe_ray: about, status }) => {
  const domains = about?.domains ?? [];
  const role = about?.role === "expert" && domains.length ? `expert for ${domains.join(", ")}` : about?.role ?? "model";
  return [role, STATES[status?.value]].filter(Boolean).join(" · ");
};

export class Picker {
  #name;
  #label;
  #open;
  #list;
  #unpin;
  picked = AUTO;
  pinned = null;

  constructor(name, label) {
    this.#name = name;
    this.#label = label;
    this.#list = element("div", { className: "menu", popover: "auto", id: `${name}-menu` });
    this.#list.setAttribute("role", "radiogroup");
    this.#list.setAttribute("aria-label", label);
    this.#open = button("", () => {}, "picker");
    this.#open.popoverTargetElement = this.#list;
    this.#unpin = button("Unpin", () => this.pin(null));
    this.#list.addEventListener("beforetoggle", (event) => this.#place(event));
    this.#list.addEventListener("toggle", ({ newState }) => {
      if (newState === "open") this.#list.querySelector(":checked")?.focus();
    });
    this.#list.addEventListener("change", ({ target }) => this.pick(target.value));
    this.#list.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      this.#list.hidePopover();
    });
    this.node = element("div", { className: "lane" }, this.#open, this.#list, this.#unpin);
    models.addEventListener("change", () => this.#show());
    this.#show();
  }

  // The model that the next question goes to.
  get model() { return this.pinned ?? this.picked; }

  pick(id) {
    this.picked = id;
    this.pin(null);
  }

  // Keep the conversation at one model; null gives it back to the choice before.
  pin(id) {
    this.pinned = id;
    this.#show();
    this.node.dispatchEvent(new Event("change"));
  }

  #place({ newState }) {
    if (newState !== "open") return;
    models.refresh();
    const { left, top } = this.#open.getBoundingClientRect();
    const width = Math.min(22 * parseFloat(getComputedStyle(document.documentElement).fontSize), innerWidth - 2 * MARGIN_PX);
    this.#list.style.left = `${Math.max(MARGIN_PX, Math.min(left, innerWidth - width - MARGIN_PX))}px`;
    this.#list.style.bottom = `${innerHeight - top + MARGIN_PX / 2}px`;
    this.#list.style.maxHeight = `${top - 2 * MARGIN_PX}px`;
  }

  #show() {
    const model = models.find(this.model);
    const state = model?.status?.value ?? "any";
    const name = this.model === AUTO ? "Auto" : this.model;
    this.#open.replaceChildren(dot(state), element("span", { className: "name" }, this.pinned ? `Pinned: ${name}` : name));
    this.#open.setAttribute("aria-label", `${this.#label}: ${name}${model ? `, ${detail(model)}` : ""}`);
    this.#unpin.hidden = this.pinned === null;
    const auto = { id: AUTO, title: "Auto", text: "the router chooses for each question" };
    this.#options([auto, ...models.list.map((each) => ({ id: each.id, title: each.id, text: detail(each), state: each.status?.value }))]);
  }

  // Radio buttons are replaced only if the models differ: replaced ones would lose the focus.
  #options(wanted) {
    const known = [...this.#list.children].map((node) => node.querySelector("input").value);
    if (known.join() !== wanted.map(({ id }) => id).join()) {
      this.#list.replaceChildren(...wanted.map(({ id }) => this.#option(id)));
    }
    wanted.forEach(({ id, title, text, state }, at) => {
      const [input, mark, words] = this.#list.children[at].children;
      input.checked = id === this.model;
      mark.className = `dot ${state ?? "any"}`;
      words.replaceChildren(element("span", { className: "name" }, title), element("small", {}, text));
    });
  }

  #option(id) {
    const input = element("input", { type: "radio", name: this.#name, value: id });
    const node = element("label", {}, input, dot("any"), element("span", { className: "words" }));
    node.addEventListener("click", ({ detail: clicks }) => { if (clicks > 0) this.#list.hidePopover(); });
    return node;
  }
}
