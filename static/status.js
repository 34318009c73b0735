/** The state of the connection: the pill in the header, its countdown, and the button that cuts the wait short. */

import { byId, sentence } from "/dom.js";

const COUNTDOWN_TICK_MS = 250;

export class StatusPill {
  #timer = 0;

  /** @param {() => void} onRetry */
  constructor(onRetry) {
    this.pill = byId("status");
    this.text = byId("status-text");
    this.retry = byId("retry");
    this.announcer = byId("announcer");
    this.retry.onclick = onRetry;
  }

  /** @param {import("/roomcast.js").StateDetail} detail */
  show({ state, retryAt, reason }) {
    clearInterval(this.#timer);
    if (this.pill.dataset.state !== state) this.announcer.textContent = words(state);
    this.pill.dataset.state = state;
    this.pill.title = reason ? sentence(reason) : "";
    // Of interest to what waits for the connection, wherever it stands.
    document.body.dataset.connection = state;
    this.retry.hidden = state === "live" || state === "connecting";
    byId("retry-verb").textContent = state === "closed" ? "Connect" : "Retry";
    this.text.textContent = words(state);
    if (retryAt !== undefined) this.#countDown(retryAt);
  }

  /** @param {number} retryAt */
  #countDown(retryAt) {
    const tick = () => {
      const seconds = Math.max(1, Math.ceil((retryAt - Date.now()) / 1000));
      this.text.textContent = `Reconnecting in ${seconds} s`;
    };
    tick();
    this.#timer = setInterval(tick, COUNTDOWN_TICK_MS);
  }
}

/** @param {string} state */
function words(state) {
  return { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", closed: "Disconnected" }[state] ?? state;
}
