// The client of the API: the list of models, streamed chats, errors, and the key that a server may ask for.

export const AUTO = "auto";
const KEY = "moe_ray.api_key";

export class ApiError extends Error {
  constructor(message, retryAfterS = 0) {
    super(message);
    this.retryAfterS = retryAfterS;
  }
}

const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
let pendingKey = null;

dialog.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  dialog.close(field.value.trim());
});
document.getElementById("key-cancel").addEventListener("click", () => dialog.close(""));

// Ask for the key; requests that fail together share one question. Resolves to whether there is a new key.
const askKey = () => {
  pendingKey ??= new Promise((resolve) => {
    field.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener("close", () => {
      pendingKey = null;
      if (dialog.returnValue) sessionStorage.setItem(KEY, dialog.returnValue);
      resolve(dialog.returnValue !== "");
    }, { once: true });
  });
  return pendingKey;
};

const errorOf = async (response) => {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered with status ${response.status}.`;
  return new ApiError(message, Number(response.headers.get("retry-after")) || 0);
};

const request = async (path, options) => {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
    const response = await fetch(path, { ...options, headers }).catch((error) => {
      if (options.signal?.aborted) throw error;
      throw new ApiError("The server cannot be reached.");
    });
    if (response.ok) return response;
    const failure = await errorOf(response);
    const hasNewKey = response.status === 401 && (sessionStorage.getItem(KEY) !== key || (await askKey()));
    if (!hasNewKey) throw failure;
  }
};

export const fetchModels = async () => (await (await request("v1/models", {})).json()).data;

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
    if (rest) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

// The chunks of a streamed chat. Throws ApiError if the server reports an error or the stream ends too early.
export async function* streamChat(body, signal) {
  const headers = { "content-type": "application/json" };
  const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("v1/chat/completions", { method: "POST", headers, body: JSON.stringify(wanted), signal });
  try {
    for await (const line of linesOf(response)) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message ?? "The server reported an error.");
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
  }
  throw new ApiError("The connection ended before the answer was complete.");
}
