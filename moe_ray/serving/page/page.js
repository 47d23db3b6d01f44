// The page: questions go to one model or, compared, to two. The conversation is kept in memory only.
import { Answer } from "./answer.js";
import { AUTO } from "./api.js";
import { button, element } from "./dom.js";
import { models } from "./models.js";
import { Picker } from "./picker.js";

const FOLLOW_PX = 60;
const byId = (id) => document.getElementById(id);
const [log, turnList, welcome, composer, input, latest] = ["log", "turns", "welcome", "composer", "question", "latest"].map(byId);
const [sendButton, stopButton, compare, editing] = ["send", "stop", "compare", "editing"].map(byId);
const pickers = [new Picker("model", "Model"), new Picker("other-model", "Second model")];
const running = new Set();
let turns = [];
let edited = null;
let isFollowing = true;

const isComparing = () => compare.getAttribute("aria-pressed") === "true";

// What a column has said before `turn`. A question without an answer is left out: roles must alternate.
const messagesFor = (turn, column) => {
  const before = turns.slice(0, turns.indexOf(turn)).flatMap(({ question, answers }) => {
    const { text } = answers[column] ?? answers[0];
    return text ? [{ role: "user", content: question }, { role: "assistant", content: text }] : [];
  });
  return [...before, { role: "user", content: turn.question }];
};

const settings = () => {
  const chosen = {};
  for (const id of ["temperature", "max_tokens"]) {
    const { value, validity } = byId(id);
    if (value !== "" && validity.valid) chosen[id] = Number(value);
  }
  return chosen;
};

const showBusy = () => {
  const hadFocus = [sendButton, stopButton].includes(document.activeElement);
  sendButton.hidden = running.size > 0;
  stopButton.hidden = running.size === 0;
  if (hadFocus) input.focus();
};

const ask = async (turn, column) => {
  const controller = new AbortController();
  running.add(controller);
  showBusy();
  const body = { model: pickers[column].model, messages: messagesFor(turn, column), ...settings() };
  await turn.answers[column].ask(body, controller.signal);
  running.delete(controller);
  showBusy();
  if (!running.size) models.refresh();
};

const stop = () => { for (const controller of running) controller.abort(); };

const showTurn = (turn) => {
  const title = element("h2", { className: "visually-hidden" }, "Question");
  const edit = button("Edit", () => startEdit(), "quiet edit");
  const question = element("div", { className: "question" }, element("p", { dir: "auto" }, turn.question), edit);
  const columns = element("div", { className: "columns" }, ...turn.answers.map(({ node }) => node));
  turn.node = element("article", { className: "turn" }, title, question, columns);
  turnList.append(turn.node);
};

const addTurn = (question) => {
  for (const answer of turns.at(-1)?.answers ?? []) answer.isLast = false;
  const turn = { question, answers: [] };
  for (const column of isComparing() ? [0, 1] : [0]) {
    turn.answers.push(new Answer({
      onRetry: () => ask(turn, column),
      onPin: (expert) => pickers[column].pin(expert),
    }));
  }
  turns.push(turn);
  showTurn(turn);
  return turn;
};

const showConversation = () => {
  welcome.hidden = turns.length > 0;
  editing.hidden = edited === null;
};

const dropEdited = () => {
  turns = turns.filter((turn) => turn !== edited);
  edited.node.remove();
  edited = null;
};

const send = () => {
  const question = input.value.trim();
  if (!question || running.size) return;
  if (edited) dropEdited();
  setInput("");
  const turn = addTurn(question);
  showConversation();
  isFollowing = true;
  follow();
  turn.answers.forEach((_, column) => ask(turn, column));
};

const startEdit = () => {
  if (!turns.length) return;
  stop();
  edited = turns.at(-1);
  edited.node.classList.add("edited");
  setInput(edited.question);
  showConversation();
  input.focus();
};

const cancelEdit = () => {
  edited.node.classList.remove("edited");
  edited = null;
  setInput("");
  showConversation();
  input.focus();
};

const newChat = () => {
  stop();
  turns = [];
  edited = null;
  turnList.replaceChildren();
  setInput("");
  for (const picker of pickers) picker.pin(null);
  showConversation();
  input.focus();
};

const setInput = (text) => {
  input.value = text;
  grow();
};

const grow = () => {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
};

const follow = () => {
  if (isFollowing) log.scrollTop = log.scrollHeight;
  latest.hidden = log.scrollHeight - log.scrollTop - log.clientHeight < FOLLOW_PX;
};

const toggleCompare = () => {
  const isOn = !isComparing();
  compare.setAttribute("aria-pressed", String(isOn));
  pickers[1].node.hidden = !isOn;
  if (isOn && pickers[1].picked === AUTO && models.baseline) pickers[1].pick(models.baseline.id);
};

const showWelcome = () => {
  const experts = models.list.map(({ id, moe_ray: about }) => element(
    "li", {}, element("span", { className: `mark ${models.series(id)}` }), element("span", { className: "name" }, id),
    element("small", {}, about?.role === "expert" ? (about.domains ?? []).join(", ") : about?.role ?? ""),
  ));
  byId("experts").replaceChildren(...experts);
  const failure = byId("models-error");
  failure.hidden = models.error === null;
  failure.querySelector("p").textContent = `The list of models cannot be read. ${models.error?.message ?? ""}`;
};

input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !input.value && !running.size && turns.length) {
    event.preventDefault();
    startEdit();
  }
});
composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open], :popover-open")) return;
  if (event.key === "Escape" && running.size) stop();
  else if (event.key === "Escape" && edited) cancelEdit();
  else if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    newChat();
  }
});
stopButton.addEventListener("click", stop);
compare.addEventListener("click", toggleCompare);
byId("new-chat").addEventListener("click", newChat);
byId("cancel-edit").addEventListener("click", cancelEdit);
byId("models-retry").addEventListener("click", () => models.refresh());
latest.addEventListener("click", () => {
  isFollowing = true;
  follow();
});
log.addEventListener("scroll", () => {
  isFollowing = log.scrollHeight - log.scrollTop - log.clientHeight < FOLLOW_PX;
  follow();
});
new ResizeObserver(follow).observe(byId("conversation"));
models.addEventListener("change", showWelcome);

byId("lanes").prepend(...pickers.map(({ node }) => node));
pickers[1].node.hidden = true;
input.focus();
models.refresh();
