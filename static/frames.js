/** The drawer with the raw frames. Recorded while closed as well, so that the beginning can be seen; shown only open. */

import { byId, element, secondsFormat } from "/dom.js";

const FRAMES_KEPT = 300;
const FRAME_TEXT_CHARS = 2_000;
/** Closer to the end than this, the list follows new frames. */
const STICK_PX = 80;

/** @typedef {{time: number, direction: string, text: string}} ShownFrame */

export class FrameDrawer {
  /** @type {ShownFrame[]} */
  #kept = [];
  #paused = false;
  #missed = 0;

  constructor() {
    this.drawer = byId("frames");
    this.toggle = byId("frames-toggle");
    this.list = byId("frames-list");
    this.note = byId("frames-note");
    this.pause = byId("frames-pause");
    this.toggle.onclick = () => this.#setOpen(this.drawer.hidden);
    byId("frames-close").onclick = () => this.#setOpen(false);
    byId("frames-clear").onclick = () => this.#clear();
    this.pause.onclick = () => this.#setPaused(!this.#paused);
    this.drawer.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.#setOpen(false);
    });
    this.#describe();
  }

  /** @param {import("/roomcast.js").FrameDetail} frame */
  add(frame) {
    if (this.#paused) {
      this.#missed += 1;
      return this.#describe();
    }
    const kept = { ...frame, time: Date.now() };
    this.#kept.push(kept);
    if (this.#kept.length > FRAMES_KEPT) this.#kept.shift();
    if (!this.drawer.hidden) this.#show([kept]);
  }

  /** @param {ShownFrame[]} frames */
  #show(frames) {
    const follow = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < STICK_PX;
    this.list.append(...frames.map(frameItem));
    while (this.list.childElementCount > FRAMES_KEPT) this.list.firstElementChild.remove();
    if (follow) this.list.scrollTop = this.list.scrollHeight;
    this.#describe();
  }

  /** @param {boolean} open */
  #setOpen(open) {
    this.drawer.hidden = !open;
    document.body.classList.toggle("frames-open", open);
    this.toggle.setAttribute("aria-expanded", String(open));
    this.list.replaceChildren();
    if (open) {
      this.#show(this.#kept);
      this.list.scrollTop = this.list.scrollHeight;
      this.pause.focus();
    } else {
      this.toggle.focus();
    }
  }

  #clear() {
    this.#kept = [];
    this.#missed = 0;
    this.list.replaceChildren();
    this.#describe();
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#missed = 0;
    this.pause.setAttribute("aria-pressed", String(paused));
    this.pause.textContent = paused ? "Resume" : "Pause";
    this.#describe();
  }

  #describe() {
    if (this.#paused) this.note.textContent = `Paused; ${this.#missed} passed unrecorded.`;
    else this.note.textContent = this.#kept.length === 0 ? "Nothing yet." : `The last ${FRAMES_KEPT} text frames are kept.`;
  }
}

/** @param {ShownFrame} frame */
function frameItem({ time, direction, text }) {
  const cut = text.length - FRAME_TEXT_CHARS;
  return element(
    "li",
    { className: "frame", data: { testid: "frame", direction } },
    element("span", { className: "frame-direction", textContent: direction }),
    element("time", { textContent: `${secondsFormat.format(time)}.${String(time % 1000).padStart(3, "0")}` }),
    element("code", { textContent: cut > 0 ? `${text.slice(0, FRAME_TEXT_CHARS)} … ${cut} more characters` : text }),
  );
}
