// Requests to the server: its key, and its errors in its own words.

const KEY = "facegm-api-key";

export class ServerError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// Keys are what a header can hold: visible ASCII.
export function keepKey(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) throw new ServerError("bad-key", "A key consists of ASCII letters, digits and signs, without spaces.");
  sessionStorage.setItem(KEY, key);
}

// The answer to a request, as an object. With fields, a form is sent; fields are strings, numbers or files.
export async function ask(address, { method = "GET", fields = null } = {}) {
  const key = sessionStorage.getItem(KEY);
  let body = null;
  if (fields !== null) {
    body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
  }
  let answer;
  try {
    answer = await fetch(address, { method, body, headers: key === null ? {} : { "X-API-Key": key } });
  } catch {
    throw new ServerError("unreachable", "The server does not answer. Is it still running?");
  }
  const content = await answer.json().catch(() => null);
  if (answer.ok && content !== null) return content;
  if (content?.error === "unauthorized") {
    sessionStorage.removeItem(KEY);
    throw new ServerError("unauthorized", key === null ? "This server asks for its API key." : "That is not this server's key.");
  }
  throw new ServerError(content?.error ?? "unknown", content?.message ?? `The server answers with status ${answer.status}.`);
}

// What the whole page must be told of; nothing where all is well.
export function tell(message) {
  const place = document.getElementById("trouble");
  place.textContent = message;
  place.hidden = message === "";
}
