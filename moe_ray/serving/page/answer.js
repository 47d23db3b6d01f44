// One answer: streams it, and shows its state, its text, and what is known about it.
import { ApiError, AUTO, streamChat } from "./api.js";
import { announce, button, copyButton, element } from "./dom.js";
import { Markdown } from "./markdown.js";
import { models } from "./models.js";
import { probabilityBars, reasons, timings } from "./verdict.js";

const FRAME_MS = 16;
// Rendering takes at most about a quarter of the time, however long the text is.
const REST_PER_RENDER = 3;
const FINISHES = { length: "Cut at the maximum number of tokens.", content_filter: "Cut by a content filter." };

export class Answer {
  #parts = {
    head: element("h3"),
    waiting: element("p", { className: "waiting" }),
    reasoning: element("details", { className: "reasoning", hidden: true }),
    body: element("div", { className: "text" }),
    note: element("p", { className: "note" }),
    error: element("div", { className: "error", hidden: true }),
    foot: element("footer", { hidden: true }),
  };
  #onRetry;
  #onPin;
  #timer = null;
  #isStale = false;
  #countdown = null;

  constructor({ onRetry, onPin }) {
    this.#onRetry = onRetry;
    this.#onPin = onPin;
    this.node = element("section", { className: "answer" }, ...Object.values(this.#parts));
    this.node.setAttribute("aria-label", "Answer");
    this.isLast = true;
  }

  // An answer that is no longer the last cannot be asked for again: those after it were given in its knowledge.
  set isLast(value) { this.node.classList.toggle("last", value); }

  get model() { return this.verdict?.expert ?? this.requested; }

  #reset(requested) {
    Object.assign(this, { requested, text: "", thoughts: "", verdict: null, usage: null, finish: null });
    clearInterval(this.#countdown);
    const { head, body, note, reasoning, error, foot } = this.#parts;
    for (const part of [head, body, note, reasoning, error, foot]) part.replaceChildren();
    for (const part of [reasoning, error, foot]) part.hidden = true;
    this.markdown = new Markdown(body);
    this.reasoningText = element("div", { className: "thoughts" });
    reasoning.append(element("summary", {}, "Reasoning"), this.reasoningText);
    this.node.className = "answer last";
    this.node.setAttribute("aria-busy", "true");
  }

  // Ask the model for the answer, and resolve when it is complete, stopped or failed.
  async ask(body, signal) {
    this.#reset(body.model);
    const started = performance.now();
    const times = { firstMs: null, totalMs: 0 };
    const stopWaiting = this.#wait();
    let failure = null;
    try {
      for await (const chunk of streamChat(body, signal)) {
        this.#take(chunk);
        if (times.firstMs === null && (this.text || this.thoughts)) {
          times.firstMs = performance.now() - started;
          stopWaiting();
        }
      }
    } catch (error) {
      failure = error;
    }
    stopWaiting();
    times.totalMs = performance.now() - started;
    this.#end(failure, signal.aborted, times);
  }

  // Say what the answer waits for, until the returned function is called.
  #wait() {
    const { waiting } = this.#parts;
    let said = "";
    const show = () => {
      const text = this.#waitingText();
      waiting.textContent = text;
      if (text !== said) announce(text);
      said = text;
    };
    const stopPolling = models.wait();
    models.addEventListener("change", show);
    waiting.hidden = false;
    show();
    return () => {
      stopPolling();
      models.removeEventListener("change", show);
      waiting.hidden = true;
    };
  }

  #waitingText() {
    const target = this.verdict?.expert ?? (this.requested === AUTO ? null : this.requested);
    const loading = models.loading.filter((id) => target === null || id === target);
    if (loading.length) return `Loading ${loading.join(" and ")}…`;
    return target === null ? "Choosing an expert…" : `Waiting for ${target}…`;
  }

  #take(chunk) {
    if (chunk.moe_ray) {
      this.verdict = { ...this.verdict, ...chunk.moe_ray };
      this.#showHead();
    }
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    this.text += (choice?.delta?.content ?? "").replaceAll("\r", "");
    this.thoughts += choice?.delta?.reasoning_content ?? "";
    this.#isStale = true;
    this.#timer ??= setTimeout(() => this.#render(), FRAME_MS);
  }

  #render() {
    const started = performance.now();
    this.#isStale = false;
    if (this.thoughts) {
      this.#parts.reasoning.hidden = false;
      if (this.reasoningText.textContent !== this.thoughts) this.reasoningText.textContent = this.thoughts;
    }
    this.markdown.update(this.text);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = null;
      if (this.#isStale) this.#render();
    }, FRAME_MS + REST_PER_RENDER * (performance.now() - started));
  }

  #showHead() {
    const { head } = this.#parts;
    head.replaceChildren(element("span", { className: `mark ${models.series(this.model)}` }), element("span", { className: "name" }, this.model));
    const { out_of_domain: isOutOfDomain, fell_back: fellBack } = this.verdict ?? {};
    if (isOutOfDomain) head.append(element("span", { className: "flag" }, "out of domain"));
    if (fellBack) head.append(element("span", { className: "flag" }, "fell back to the baseline"));
  }

  #end(failure, isStopped, times) {
    this.#render();
    this.node.removeAttribute("aria-busy");
    this.node.classList.add("over");
    if (!this.verdict && (this.text || !failure)) this.#showHead();
    if (isStopped) this.#parts.note.textContent = "Stopped.";
    else if (failure) this.#fail(failure);
    else this.#parts.note.textContent = FINISHES[this.finish] ?? (this.text ? "" : "The model answered with no text.");
    if (this.text || this.verdict) this.#showFoot(times);
    if (!failure) announce(`${this.model} has answered.`);
    else if (isStopped) announce("Stopped.");
  }

  #showFoot(times) {
    const { foot, body } = this.#parts;
    const actions = element("div", { className: "actions" });
    if (this.text) actions.append(copyButton("Copy the answer", () => this.text, body));
    actions.append(button("Ask again", () => this.#onRetry(), "quiet only-last"));
    if (this.requested === AUTO && this.verdict) {
      const pin = button(`Pin ${this.verdict.expert}`, () => this.#onPin(this.verdict.expert), "quiet");
      pin.title = `Send the rest of this conversation to ${this.verdict.expert}`;
      actions.append(pin);
    }
    const why = this.verdict ? [element("p", { className: "why" }, reasons(this.verdict).join(" ")), ...probabilityBars(this.verdict)] : [];
    foot.replaceChildren(...why, timings(times, this.usage, this.verdict), actions);
    foot.hidden = false;
  }

  #fail(failure) {
    const { error } = this.#parts;
    const message = failure instanceof ApiError ? failure.message : `The page failed: ${failure.message}`;
    const retry = button("Retry", () => this.#onRetry(), "only-last");
    error.replaceChildren(element("p", {}, message), retry);
    error.hidden = false;
    announce(`Error: ${message}`);
    this.#countDown(retry, failure.retryAfterS ?? 0);
  }

  // The server said when to come back: the button waits until then.
  #countDown(retry, waitS) {
    const end = performance.now() + 1000 * waitS;
    const show = () => {
      const left = Math.ceil((end - performance.now()) / 1000);
      retry.disabled = left > 0;
      retry.textContent = left > 0 ? `Retry in ${left} s` : "Retry";
      if (left <= 0) clearInterval(this.#countdown);
    };
    this.#countdown = setInterval(show, 250);
    show();
  }
}
