// Talking to the server that this page came from.

import { readEvents } from "./sse.js";

const KEY = "windlass.key";

/** What the server refused, in its own words. */
export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Return the API key of this browser tab, "" when there is none. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** Keep the API key until this browser tab is closed; "" forgets it. */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Send a request and return its response; `windlass-key` is dispatched when a key is missing. */
export async function send(path, { body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.", "unreachable");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const text = await response.text();
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch { /* A proxy's own page: its status says enough. */ }
  if (response.status === 401) document.dispatchEvent(new CustomEvent("windlass-key"));
  const message = typeof error.message === "string" ? error.message : `HTTP ${response.status}`;
  return new ApiError(response.status, message, error.code);
}

/** Return the answer to a GET as an object. */
export async function getJson(path, signal) {
  return (await send(path, { signal })).json();
}

/** Post a request that streams; yield its chunks. Throws when the stream breaks or tells an error. */
export async function* streamChunks(path, body, signal) {
  const response = await send(path, { body, signal });
  let complete = false;
  // Read to the very end, else the browser takes the request for an aborted one.
  for await (const event of readEvents(response)) {
    if (event.data === "[DONE]") {
      complete = true;
      continue;
    }
    const chunk = JSON.parse(event.data);
    if (chunk.error) throw new ApiError(200, String(chunk.error.message), chunk.error.code);
    yield chunk;
  }
  if (!complete) throw new ApiError(200, "The connection ended before the answer did.", "cut_off");
}
