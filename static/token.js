/** The token for a server that demands one: asked for in a dialog, and kept for this tab only. */

import { byId, sentence, tabMemory } from "/dom.js";

export class TokenDialog {
  /** @param {() => void} onToken  there is another one */
  constructor(onToken) {
    this.dialog = byId("token-dialog");
    this.field = byId("token");
    this.error = byId("token-error");
    const kept = tabMemory.recall("token", "");
    /** Empty if there is none. @type {string} */
    this.token = typeof kept === "string" ? kept : "";
    this.field.oninput = () => {
      this.error.textContent = "";
    };
    byId("token-cancel").onclick = () => this.dialog.close();
    byId("token-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      const token = this.field.value.trim();
      if (token === "") {
        this.error.textContent = "Please paste a token.";
        return this.field.focus();
      }
      this.#keep(token);
      this.dialog.close();
      onToken();
    };
    // It is in the document no longer than it is needed.
    this.dialog.addEventListener("close", () => {
      this.field.value = "";
    });
  }

  get isAsking() {
    return this.dialog.open;
  }

  /** @param {string} problem  what the server said of the one that it was shown, or empty */
  ask(problem) {
    this.#keep("");
    this.error.textContent = problem === "" ? "" : sentence(problem);
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** @param {string} token */
  #keep(token) {
    this.token = token;
    tabMemory.keep("token", token);
  }
}
