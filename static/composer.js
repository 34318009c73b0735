/** The field for the next message: as high as its text, sent by Enter or by its button. */

import { byId } from "/dom.js";

export class Composer {
  /** @param {(text: string) => void} onSend  never with nothing but space */
  constructor(onSend) {
    this.field = byId("composer-text");
    this.onSend = onSend;
    this.field.oninput = () => this.#grow();
    addEventListener("resize", () => this.#grow());
    this.field.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      // While an input method composes, Enter belongs to it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    };
    byId("composer").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#send();
      this.focus();
    };
  }

  /** @type {string} */
  get text() {
    return this.field.value;
  }

  set text(text) {
    this.field.value = text;
    this.#grow();
  }

  get isFocused() {
    return document.activeElement === this.field;
  }

  /** @param {string} room @param {string} draft */
  show(room, draft) {
    byId("composer-label").textContent = `Message to ${room}`;
    this.field.placeholder = `Message ${room}`;
    this.text = draft;
  }

  focus() {
    this.field.focus();
  }

  blur() {
    this.field.blur();
  }

  #send() {
    const { text } = this;
    if (text.trim() === "") return;
    this.text = "";
    this.onSend(text);
  }

  #grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight + 2}px`;
  }
}
