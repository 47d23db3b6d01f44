// The served models and their state. `status` is polled only while an answer waits for its first token.
import { AUTO, fetchModels } from "./api.js";

const POLL_MS = 1000;
const NUM_SERIES = 8;

class Models extends EventTarget {
  list = [];
  error = null;
  #waiting = 0;
  #timer = null;

  async refresh() {
    try {
      this.list = (await fetchModels()).filter(({ id }) => id !== AUTO);
      this.error = null;
    } catch (error) {
      this.error = error;
    }
    this.dispatchEvent(new Event("change"));
  }

  find(id) { return this.list.find((model) => model.id === id) ?? null; }

  get baseline() { return this.list.find((model) => model.moe_ray?.role === "baseline") ?? null; }

  get loading() { return this.list.filter((model) => model.status?.value === "loading").map(({ id }) => id); }

  // The colour of a model, as in the report: the baseline has the colour of the text.
  series(id) {
    const others = this.list.filter((model) => model !== this.baseline).map((model) => model.id);
    return others.includes(id) ? `series-${1 + (others.indexOf(id) % (NUM_SERIES - 1))}` : "series-0";
  }

  expertOf(domain) { return this.list.find((model) => model.moe_ray?.domains?.includes(domain))?.id ?? ""; }

  // Poll until the returned function is called.
  wait() {
    this.#waiting += 1;
    this.#timer ??= setTimeout(() => this.#poll(), POLL_MS);
    let isOver = false;
    return () => {
      if (isOver) return;
      isOver = true;
      this.#waiting -= 1;
      if (this.#waiting > 0) return;
      clearTimeout(this.#timer);
      this.#timer = null;
    };
  }

  async #poll() {
    await this.refresh();
    this.#timer = this.#waiting > 0 ? setTimeout(() => this.#poll(), POLL_MS) : null;
  }
}

export const models = new Models();
