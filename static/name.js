/** The form for one's own name, which is kept over a reload. */

import { byId, memory } from "/dom.js";
import { userNameProblem } from "/roomcast.js";

export class NameForm {
  /** Empty if there is none. */
  name = "";
  #onChange;

  /** @param {() => void} onChange  the name is another one */
  constructor(onChange) {
    this.#onChange = onChange;
    this.field = byId("name");
    this.button = byId("name-save");
    const kept = memory.recall("name", "");
    if (typeof kept === "string" && userNameProblem(kept) === null) this.name = kept;
    this.field.value = this.name;
    this.field.oninput = () => {
      this.button.hidden = this.field.value.trim() === this.name;
    };
    // A phone has no room for the button: there, leaving the field is enough.
    this.field.onchange = () => this.take(this.field.value.trim());
    byId("name-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.take(this.field.value.trim());
    };
  }

  /** @param {string} wished */
  take(wished) {
    const problem = userNameProblem(wished);
    byId("name-error").textContent = problem ?? "";
    if (problem !== null) return;
    this.field.value = wished;
    this.button.hidden = true;
    if (wished === this.name) return;
    this.name = wished;
    memory.keep("name", wished);
    this.#onChange();
  }
}
