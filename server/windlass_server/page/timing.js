// How long an answer takes, as the reader of a stream sees it.

const SHORTEST = 0.005;

/** Measures one streamed answer. */
export class Timing {
  #started = performance.now();
  #first = 0;
  #last = 0;
  #pieces = 0;
  usage = null;

  /** Note that a piece of the answer has arrived. */
  piece() {
    this.#last = performance.now();
    if (!this.#pieces) this.#first = this.#last;
    this.#pieces += 1;
  }

  /** Return plain numbers: seconds, tokens, and tokens a second after the first token. */
  result() {
    const tokens = this.usage?.completion_tokens ?? this.#pieces;
    const decode = (this.#last - this.#first) / 1000;
    return {
      firstToken: this.#pieces ? (this.#first - this.#started) / 1000 : null,
      seconds: (performance.now() - this.#started) / 1000,
      tokens,
      promptTokens: this.usage?.prompt_tokens ?? null,
      cachedTokens: this.usage?.prompt_tokens_details?.cached_tokens ?? null,
      // What arrives at once tells nothing about the pace.
      rate: tokens > 1 && decode > SHORTEST ? (tokens - 1) / decode : null,
    };
  }
}

/** Return a duration for people: 12 ms, 1.23 s, 4 min. */
export function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** Return the line under an answer. */
export function statsLine(stats) {
  const parts = [];
  if (stats.rate) parts.push(`${stats.rate.toFixed(1)} tokens/s`);
  if (stats.firstToken !== null) parts.push(`first token ${duration(stats.firstToken)}`);
  parts.push(`${duration(stats.seconds)} in all`);
  parts.push(`${stats.tokens} tokens`);
  if (stats.promptTokens !== null) {
    const cached = stats.cachedTokens ? `, ${stats.cachedTokens} cached` : "";
    parts.push(`prompt ${stats.promptTokens}${cached}`);
  }
  if (stats.finish && stats.finish !== "stop") parts.push(`ended by ${stats.finish}`);
  return parts.join(" · ");
}
