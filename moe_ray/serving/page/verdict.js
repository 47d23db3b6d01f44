// What is said below an answer: which model answered and why, the router's probabilities, and the timings.
import { AUTO } from "./api.js";
import { element } from "./dom.js";
import { models } from "./models.js";

const NUM_BARS = 4;
// A rate over less time says nothing about the model.
const MIN_RATE_MS = 50;

export const percent = (share) => {
  const rounded = Math.round(100 * share);
  if (rounded === 100 && share < 1) return "> 99 %";
  if (rounded === 0 && share > 0) return "< 1 %";
  return `${rounded} %`;
};

export const duration = (ms) => (ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s`);

// Why this model answered, in sentences.
export const reasons = (verdict) => {
  const { requested, expert, confidence, out_of_domain: isOutOfDomain, fell_back: fellBack, pinned } = verdict;
  const said = [];
  const confident = confidence == null ? "" : `, ${percent(confidence)} confident`;
  if (requested !== AUTO) said.push("Not routed: you chose this model.");
  else if (pinned) said.push(`Not routed: ${pinned === "session" ? "the session stays with its expert" : "a background request"}.`);
  else if (!fellBack) said.push(`The router chose ${expert}${confident}.`);
  if (isOutOfDomain) said.push("Out of domain: the question fits no expert.");
  if (fellBack) said.push(`Fell back to the baseline, ${expert}.`);
  return said;
};

const bar = (domain, share) => {
  const fill = element("span", { className: `fill ${models.series(models.expertOf(domain))}` });
  fill.style.width = `${100 * share}%`;
  const track = element("span", { className: "track" }, fill);
  track.setAttribute("aria-hidden", "true");
  return element("li", {}, element("span", { className: "domain" }, domain), track, element("span", { className: "share" }, percent(share)));
};

const bars = (rows) => element("ul", { className: "bars" }, ...rows.map(([domain, share]) => bar(domain, share)));

// The router's probability of each domain, the most probable first.
export const probabilityBars = ({ probabilities = {} }) => {
  const rows = Object.entries(probabilities).sort(([, left], [, right]) => right - left);
  if (rows.length <= NUM_BARS + 1) return rows.length ? [bars(rows)] : [];
  const others = element("details", {}, element("summary", {}, `${rows.length - NUM_BARS} more domains`), bars(rows.slice(NUM_BARS)));
  return [bars(rows.slice(0, NUM_BARS)), others];
};

// Timings as a list of terms. `times` are in ms since the question was sent; null where there is none.
export const timings = ({ firstMs, totalMs }, usage, verdict) => {
  const rows = [];
  if (firstMs !== null) rows.push(["first token", duration(firstMs)]);
  rows.push(["total", duration(totalMs)]);
  if (usage?.completion_tokens > 1 && firstMs !== null && totalMs - firstMs > MIN_RATE_MS) {
    const rate = (1000 * (usage.completion_tokens - 1)) / (totalMs - firstMs);
    rows.push(["tokens/s", rate.toFixed(rate < 10 ? 1 : 0)]);
  }
  if (usage) rows.push(["tokens", `${usage.prompt_tokens} in, ${usage.completion_tokens} out`]);
  for (const [label, ms] of [["router", verdict?.router_ms], ["queue", verdict?.queue_ms], ["swap", verdict?.swap_ms]]) {
    if (ms > 0) rows.push([label, duration(ms)]);
  }
  return element("dl", { className: "timings" }, ...rows.map(([term, value]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, value))));
};
