// Reads an answer to screen readers while it comes: whole sentences, seldom, each only once.

import { byId } from "./dom.js";

const PAUSE = 2500;
const MOST = 600;

/** Speaks one answer after the other. */
export class Speaker {
  #said = 0;
  #next = 0;

  /** Begin a new answer. */
  begin() {
    this.#said = 0;
    this.#next = performance.now() + PAUSE;
    byId("spoken").textContent = "";
  }

  /** Say the whole sentences that are new, if it is time. */
  grow(text) {
    if (performance.now() < this.#next) return;
    const fresh = text.slice(this.#said);
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => fresh.lastIndexOf(mark)));
    if (end >= 0) this.#say(fresh.slice(0, end + 1));
  }

  /** Say what is left. */
  end(text) {
    this.#say(text.slice(this.#said));
  }

  #say(text) {
    this.#said += text.length;
    this.#next = performance.now() + PAUSE;
    const words = text.trim();
    byId("spoken").textContent = words.length > MOST ? `${words.slice(0, MOST)} … and more` : words;
  }
}
