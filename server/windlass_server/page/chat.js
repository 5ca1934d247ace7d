// The chat: conversations, their messages, and the answer that is being written.

import { answer, requestMessages } from "./answer.js";
import { announce, button, byId, element, notice } from "./dom.js";
import { MessageView } from "./message.js";
import { fieldTexts, onSettingsChange, requestParams, setFieldTexts } from "./settings.js";
import { Speaker } from "./speaker.js";
import * as store from "./store.js";

// While an answer grows it is drawn and kept at most this often, in milliseconds.
const DRAW_INTERVAL = 60;

/** The chat view; `model()` returns the name of the chosen model. */
export class Chat {
  #conversation = store.newConversation();
  #running = null;
  #speaker = new Speaker();

  constructor(model) {
    this.model = model;
    const draft = byId("draft");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#sendDraft();
    });
    draft.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#sendDraft();
    });
    draft.addEventListener("input", () => fit(draft));
    byId("stop").addEventListener("click", () => this.stop());
    byId("new").addEventListener("click", () => this.startNew());
    byId("export").addEventListener("click", () => this.#export());
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
    onSettingsChange(() => this.#settingsChanged());
    addEventListener("pagehide", () => this.#keep(this.#conversation));
    this.#open(store.load()[0] ?? this.#conversation);
  }

  /** Stop the answer that is being written; returns whether there was one. */
  stop() {
    this.#running?.abort();
    return this.#running !== null;
  }

  /** Start a conversation, with the settings of the last one. */
  startNew() {
    this.stop();
    const { system, params } = this.#conversation;
    this.#open({ ...store.newConversation(), system, params });
    byId("draft").focus();
  }

  // -- conversations ----------------------------------------------------------------------

  #open(conversation) {
    this.stop();
    this.#conversation = conversation;
    byId("system").value = conversation.system;
    setFieldTexts(conversation.params);
    this.#drawMessages();
    this.#drawList();
  }

  #save() {
    this.#keep(this.#conversation);
    this.#drawList();
  }

  #keep(conversation) {
    if (!conversation.messages.length) return;
    conversation.updated = Date.now();
    try {
      const dropped = store.save(conversation);
      if (dropped) announce(`${dropped} old conversation(s) made room for this one.`);
    } catch {
      notice("This browser keeps no more conversations: export this one to keep it.");
    }
  }

  #drawList() {
    const items = store.load().map((conversation) => {
      const title = store.titleOf(conversation);
      const open = button(title, () => this.#open(conversation), { className: "open" });
      const current = conversation.id === this.#conversation.id;
      if (current) open.setAttribute("aria-current", "true");
      const drop = button("×", () => this.#delete(conversation), {
        className: "drop",
        "aria-label": `Delete ${title}`,
      });
      return element("li", {}, open, drop);
    });
    byId("conversations").replaceChildren(...items);
    byId("title").textContent = store.titleOf(this.#conversation);
  }

  #delete(conversation) {
    store.remove(conversation.id);
    announce("Conversation deleted.");
    if (conversation.id === this.#conversation.id) this.startNew();
    else this.#drawList();
    byId("new").focus();
  }

  #export() {
    const blob = new Blob([store.exportText(this.#conversation)], { type: "application/json" });
    const href = URL.createObjectURL(blob);
    const name = store.titleOf(this.#conversation).replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
    const anchor = element("a", { href, download: `${name || "conversation"}.json` });
    document.body.append(anchor);
    anchor.click();
    anchor.remove();
    URL.revokeObjectURL(href);
  }

  async #import(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      // A character has up to four bytes.
      if (file.size > 4 * store.LIMITS.characters) throw new Error("The file is too large.");
      const conversation = store.importText(await file.text());
      notice("");
      this.#open(conversation);
      this.#save();
      announce("Conversation imported.");
    } catch (error) {
      notice(`The import failed. ${error.message}`);
    }
  }

  #settingsChanged() {
    this.#conversation.system = byId("system").value;
    this.#conversation.params = fieldTexts();
    this.#save();
  }

  // -- messages ---------------------------------------------------------------------------

  #drawMessages() {
    byId("messages").replaceChildren();
    for (const message of this.#conversation.messages) this.#draw(message);
    byId("empty").hidden = this.#conversation.messages.length > 0;
    scrollToEnd();
  }

  #draw(message) {
    const conversation = this.#conversation;
    const index = conversation.messages.indexOf(message);
    const view = new MessageView(message, {
      edit: (text) => this.#edited(message, text),
      regenerate: () => this.#answerAfter(conversation.messages.slice(0, index)),
      results: (values) => this.#answerTools(message, values),
    });
    byId("messages").append(view.node);
    byId("empty").hidden = true;
    return view;
  }

  #edited(message, text) {
    const { messages } = this.#conversation;
    if (message.role === "assistant") {
      message.content = text;
      this.#drawMessages();
      this.#save();
      return;
    }
    const before = messages.slice(0, messages.indexOf(message));
    this.#answerAfter([...before, { ...message, content: text }]);
  }

  #answerTools(message, values) {
    const { messages } = this.#conversation;
    const results = values.map((content, index) => (
      { role: "tool", content, tool_call_id: message.tool_calls[index].id }));
    this.#answerAfter([...messages.slice(0, messages.indexOf(message) + 1), ...results]);
  }

  #sendDraft() {
    const draft = byId("draft");
    const text = draft.value;
    if (!text.trim() || this.#running) return;
    const user = { role: "user", content: text };
    if (this.#answerAfter([...this.#conversation.messages, user])) {
      draft.value = "";
      fit(draft);
    }
  }

  /** Make `messages` the conversation and ask for the next; false when a setting is wrong. */
  #answerAfter(messages) {
    notice("");
    let params;
    try {
      params = requestParams({ chat: true });
    } catch (error) {
      notice(error.message);
      return false;
    }
    if (messages.length + 1 > store.LIMITS.messages) {
      notice(`A conversation has at most ${store.LIMITS.messages} messages: start a new one.`);
      return false;
    }
    this.stop();
    this.#conversation.system = byId("system").value;
    this.#conversation.params = fieldTexts();
    this.#conversation.messages = messages;
    this.#drawMessages();
    const body = { model: this.model(), messages: requestMessages(this.#conversation), ...params };
    this.#run(body, this.#conversation);
    return true;
  }

  async #run(body, conversation) {
    const message = { role: "assistant", content: "" };
    if (body.response_format) message.json = true;
    conversation.messages.push(message);
    const view = this.#draw(message);
    const running = new AbortController();
    this.#running = running;
    this.#busy(true);
    view.begin();
    scrollToEnd();
    this.#save();
    this.#speaker.begin();
    const draw = throttled(() => {
      following(() => view.update());
      this.#speaker.grow(message.content);
    });
    await answer(body, message, running.signal, draw);
    draw.cancel();
    if (this.#running === running) {
      this.#running = null;
      this.#busy(false);
      following(() => { view.update(); view.finish(); });
      this.#speaker.end(message.content);
      announce(message.error ? `Error: ${message.error}` : "The answer is complete.");
      if (message.tool_calls?.length && !message.error) following(() => view.askForResults());
    }
    this.#keep(conversation);
    this.#drawList();
  }

  #busy(busy) {
    const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
    byId("send").hidden = busy;
    byId("stop").hidden = !busy;
    if (hadFocus) byId(busy ? "stop" : "send").focus();
    byId("messages").setAttribute("aria-busy", String(busy));
  }
}

/** Let a text box be as high as its text, up to a limit in the style sheet. */
function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

function scrollToEnd() {
  const box = byId("scroll");
  box.scrollTop = box.scrollHeight;
}

/** Draw, and stay at the end of the messages unless the reader has scrolled up. */
function following(draw) {
  const box = byId("scroll");
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  draw();
  if (atEnd) scrollToEnd();
}

/** Return a function that calls `act` soon, however often it is called itself. */
function throttled(act) {
  let timer = 0;
  const call = () => {
    timer ||= setTimeout(() => {
      timer = 0;
      act();
    }, DRAW_INTERVAL);
  };
  call.cancel = () => clearTimeout(timer);
  return call;
}
