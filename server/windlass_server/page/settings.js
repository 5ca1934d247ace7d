// The sampling controls: from fields to the keys of a request, and back from a conversation.

import { byId } from "./dom.js";

const fields = [...document.querySelectorAll("[data-param]")];

/** Return what the fields hold, as text by parameter; empty ones are left out. */
export function fieldTexts() {
  const filled = fields.filter((field) => field.value.trim() !== "");
  return Object.fromEntries(filled.map((field) => [field.dataset.param, field.value]));
}

/** Put texts into the fields. */
export function setFieldTexts(texts) {
  for (const field of fields) {
    field.value = texts[field.dataset.param] ?? "";
    mark(field, "");
  }
  byId("settings-error").textContent = "";
}

/**
 * Return the keys of a request. Without `chat` those that only a conversation has are left out.
 * Throws an Error, and marks the field, when one is wrong.
 */
export function requestParams({ chat }) {
  const params = {};
  const used = fields.filter((field) => chat || !field.closest(".chat-only"));
  let wrong = "";
  for (const field of used) {
    const message = checkField(field, params);
    mark(field, message);
    wrong ||= message;
  }
  byId("settings-error").textContent = wrong;
  if (wrong) throw new Error(wrong);
  return params;
}

function checkField(field, params) {
  const name = labelOf(field);
  const text = field.value.trim();
  // A step is what the arrow keys do: values between the steps are good ones.
  const { badInput, rangeOverflow, rangeUnderflow } = field.validity;
  if (badInput || rangeOverflow || rangeUnderflow) return `${name}: ${field.validationMessage}`;
  if (text === "") return "";
  try {
    params[field.dataset.param] = parse(field, text);
  } catch (error) {
    return `${name}: ${error.message}`;
  }
  return "";
}

function parse(field, text) {
  switch (field.dataset.kind) {
    case "lines": return field.value.split("\n").filter((line) => line !== "");
    case "text": return text;
    case "json": return JSON.parse(text);
    case "schema":
      return { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(text), strict: true } };
    default: return Number(text);
  }
}

function mark(field, message) {
  if (message) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
}

function labelOf(field) {
  return field.labels[0].textContent;
}

/** Call `act` whenever a field or the system prompt changes. */
export function onSettingsChange(act) {
  for (const field of [...fields, byId("system")]) field.addEventListener("change", act);
  byId("settings-reset").addEventListener("click", () => {
    setFieldTexts({});
    byId("system").value = "";
    act();
  });
}
