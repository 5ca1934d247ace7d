// From the chunks of `POST /v1/chat/completions` to a message.

import { streamChunks } from "./api.js";
import { Timing } from "./timing.js";

/** Return the messages of a request for a conversation. */
export function requestMessages(conversation) {
  const messages = conversation.messages.filter((message) => !isEmpty(message)).map(wireMessage);
  const system = conversation.system.trim();
  return system ? [{ role: "system", content: system }, ...messages] : messages;
}

function isEmpty(message) {
  return message.role === "assistant" && !message.content && !message.tool_calls?.length;
}

function wireMessage({ role, content, tool_calls: calls, tool_call_id: id }) {
  if (role === "tool") return { role, content, tool_call_id: id };
  if (!calls?.length) return { role, content };
  const wire = calls.map((call) => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
  return { role, content, tool_calls: wire };
}

/**
 * Ask and write the answer into `message`; `onGrowth` is called for every piece. A stop by
 * `signal` is a good end. Any error becomes `message.error`.
 */
export async function answer(body, message, signal, onGrowth) {
  const timing = new Timing();
  let finish = "";
  try {
    const request = { ...body, stream: true, stream_options: { include_usage: true } };
    for await (const chunk of streamChunks("v1/chat/completions", request, signal)) {
      if (chunk.usage) timing.usage = chunk.usage;
      const choice = chunk.choices?.[0];
      if (!choice) continue;
      if (choice.finish_reason) finish = choice.finish_reason;
      if (!takeDelta(message, choice.delta ?? {})) continue;
      timing.piece();
      onGrowth();
    }
  } catch (error) {
    if (error.name === "AbortError") finish = "your stop";
    else message.error = error.message;
  }
  message.stats = { ...timing.result(), finish };
}

function takeDelta(message, delta) {
  const reasoning = delta.reasoning ?? delta.reasoning_content;
  if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
  if (delta.content) message.content += delta.content;
  for (const part of delta.tool_calls ?? []) takeToolCall(message, part);
  return Boolean(reasoning || delta.content || delta.tool_calls?.length);
}

function takeToolCall(message, part) {
  message.tool_calls ??= [];
  const index = part.index ?? 0;
  while (message.tool_calls.length <= index && index < 128) {
    message.tool_calls.push({ id: "", name: "", arguments: "" });
  }
  const call = message.tool_calls[index];
  if (!call) return;
  call.id = part.id ?? call.id;
  call.name += part.function?.name ?? "";
  call.arguments += part.function?.arguments ?? "";
}
