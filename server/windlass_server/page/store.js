// Conversations, in the browser's own storage and as files. What is read back is checked: a file
// may come from anybody, and the storage from an older page.

const STORAGE = "windlass.conversations";
export const LIMITS = {
  conversations: 50,
  messages: 1000,
  characters: 2_000_000,
};
const ROLES = ["user", "assistant", "tool"];

/** Return a conversation that holds nothing yet. */
export function newConversation() {
  return { id: crypto.randomUUID?.() ?? randomId(), title: "", system: "", params: {}, messages: [], updated: Date.now() };
}

// randomUUID exists with TLS and on localhost only.
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return a conversation's title: its first words. */
export function titleOf(conversation) {
  const first = conversation.messages.find((message) => message.role === "user");
  const text = conversation.title || first?.content.trim().replace(/\s+/g, " ") || "New conversation";
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

/** Return all kept conversations, the latest first. */
export function load() {
  let list;
  try {
    list = JSON.parse(localStorage.getItem(STORAGE) ?? "[]");
  } catch {
    return [];
  }
  if (!Array.isArray(list)) return [];
  return list.flatMap((value) => {
    try {
      return [checkConversation(value)];
    } catch {
      return [];
    }
  }).slice(0, LIMITS.conversations);
}

/** Keep a conversation. Returns how many of the oldest had to go for it. */
export function save(conversation) {
  // Read again: another tab may have saved others meanwhile.
  const others = load().filter((other) => other.id !== conversation.id);
  return write([conversation, ...others].sort((a, b) => b.updated - a.updated));
}

/** Forget a conversation. */
export function remove(id) {
  write(load().filter((other) => other.id !== id));
}

function write(list) {
  let kept = list.slice(0, LIMITS.conversations);
  for (;;) {
    const text = JSON.stringify(kept);
    if (text.length <= LIMITS.characters || !kept.length) {
      try {
        localStorage.setItem(STORAGE, text);
        return list.length - kept.length;
      } catch (error) {
        if (!kept.length) throw error;
      }
    }
    kept = kept.slice(0, -1);
  }
}

/** Return a conversation as the text of a file. */
export function exportText(conversation) {
  return JSON.stringify({ format: "windlass-conversation", version: 1, ...conversation }, null, 2);
}

/** Read the text of a file; throws an Error that says what is wrong with it. */
export function importText(text) {
  if (text.length > LIMITS.characters) throw new Error("The file is too large.");
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("The file is not JSON.");
  }
  return { ...checkConversation(value), id: newConversation().id, updated: Date.now() };
}

/** Return a copy that holds only what a conversation may hold; throws an Error otherwise. */
export function checkConversation(value) {
  if (!isObject(value) || !Array.isArray(value.messages)) {
    throw new Error("The file is not a conversation: it has no list of messages.");
  }
  if (value.messages.length > LIMITS.messages) {
    throw new Error(`The conversation has more than ${LIMITS.messages} messages.`);
  }
  return {
    id: typeof value.id === "string" ? value.id.slice(0, 64) : newConversation().id,
    title: text(value.title).slice(0, 200),
    system: text(value.system),
    params: checkParams(value.params),
    messages: value.messages.map(checkMessage),
    updated: Number.isFinite(value.updated) ? value.updated : 0,
  };
}

function checkMessage(value, index) {
  if (!isObject(value) || !ROLES.includes(value.role) || typeof value.content !== "string") {
    throw new Error(`Message ${index + 1} has no known role or no text.`);
  }
  const message = { role: value.role, content: value.content };
  if (value.role === "tool") message.tool_call_id = text(value.tool_call_id);
  if (value.role !== "assistant") return message;
  if (text(value.reasoning)) message.reasoning = value.reasoning;
  if (Array.isArray(value.tool_calls) && value.tool_calls.length) {
    message.tool_calls = value.tool_calls.filter(isObject).map((call) => ({
      id: text(call.id),
      name: text(call.name),
      arguments: text(call.arguments),
    }));
  }
  if (isObject(value.stats)) message.stats = checkStats(value.stats);
  if (value.json === true) message.json = true;
  if (text(value.error)) message.error = value.error;
  return message;
}

function checkStats(value) {
  const number = (name) => (Number.isFinite(value[name]) ? value[name] : null);
  return {
    firstToken: number("firstToken"),
    seconds: number("seconds"),
    tokens: number("tokens"),
    promptTokens: number("promptTokens"),
    cachedTokens: number("cachedTokens"),
    rate: number("rate"),
    finish: text(value.finish).slice(0, 40),
  };
}

function checkParams(value) {
  if (!isObject(value)) return {};
  const texts = Object.entries(value).filter(([, content]) => typeof content === "string");
  return Object.fromEntries(texts);
}

function text(value) {
  return typeof value === "string" ? value : "";
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
