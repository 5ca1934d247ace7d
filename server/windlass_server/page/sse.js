// Server-sent events, as the HTML standard defines the stream.

/** Parses a stream in pieces; however it is cut, the events are the same. */
export class SseParser {
  #rest = "";
  #data = [];
  #name = "";
  #sawCarriageReturn = false;
  #started = false;

  /** Take the next piece of text and return the events that it completes. */
  feed(text) {
    if (!text) return [];
    if (!this.#started) {
      this.#started = true;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    if (this.#sawCarriageReturn && text.startsWith("\n")) text = text.slice(1);
    this.#sawCarriageReturn = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) this.#line(line, events);
    return events;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length) {
        events.push({ name: this.#name || "message", data: this.#data.join("\n") });
      }
      this.#data = [];
      this.#name = "";
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#name = value;
  }
}

/** Yield the events of a response's body. */
export async function* readEvents(response) {
  const parser = new SseParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield* parser.feed(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
