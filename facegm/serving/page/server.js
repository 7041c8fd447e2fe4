// Requests to the server: its key, and its errors in its own words.

const KEY = "facegm-api-key";

export class ServerError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export function keepKey(key) {
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
  throw new ServerError(content?.error ?? "unknown", content?.message ?? `The server answers with status ${answer.status}.`);
}
