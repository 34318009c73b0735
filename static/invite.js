/**
 * Rooms in addresses: `#room=…` is an invitation, `#…` the room that this page looks at. And what makes and takes
 * invitations: the button that copies one, and the form of a guest who has no name yet.
 */

import { byId } from "/dom.js";
import { userNameProblem } from "/roomcast.js";

const INVITATION = "#room=";
const COPIED_MS = 2_000;

/** @returns {{room: string, isInvitation: boolean}} an empty room if there is none */
export function roomInAddress() {
  const isInvitation = location.hash.startsWith(INVITATION);
  const raw = location.hash.slice(isInvitation ? INVITATION.length : 1);
  try {
    return { room: decodeURIComponent(raw), isInvitation };
  } catch {
    return { room: raw, isInvitation }; // typed by hand, with a bare percent sign
  }
}

/** @param {string} room */
const invitationTo = (room) => `${location.origin}${location.pathname}${INVITATION}${encodeURIComponent(room)}`;

/** The button that copies the link to a room, and the field that shows it where nothing can be copied. */
export class InviteButton {
  #timer = 0;

  /** @param {() => string | null} roomName */
  constructor(roomName) {
    this.button = byId("invite");
    this.box = byId("invite-box");
    this.field = byId("invite-link");
    this.button.onclick = async () => {
      const room = roomName();
      if (room === null) return;
      if (!this.box.hidden) return this.hide();
      const link = invitationTo(room);
      if (await copied(link)) this.#confirm();
      else this.#showLink(link);
    };
    byId("invite-close").onclick = () => this.#dismiss();
    this.box.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") this.#dismiss();
    });
    this.field.onfocus = () => this.field.select();
  }

  /** Another room is looked at. */
  hide() {
    this.box.hidden = true;
    this.button.setAttribute("aria-expanded", "false");
  }

  #dismiss() {
    this.hide();
    this.button.focus();
  }

  #confirm() {
    clearTimeout(this.#timer);
    this.button.dataset.copied = "true";
    byId("invite-words").textContent = "Copied";
    byId("announcer").textContent = "The link to this room is copied.";
    this.#timer = setTimeout(() => {
      delete this.button.dataset.copied;
      byId("invite-words").textContent = "Invite";
    }, COPIED_MS);
  }

  /** @param {string} link */
  #showLink(link) {
    this.field.value = link;
    this.box.hidden = false;
    this.button.setAttribute("aria-expanded", "true");
    this.field.focus();
    this.field.select();
  }
}

/** Pages without TLS have no clipboard, and a browser may forbid it. @param {string} text */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** What a guest is asked who follows an invitation and has no name. */
export class Invitation {
  /** What it leads to. */
  room = "";

  /** @param {(name: string) => void} onAccept  the name is empty if the guest wants none */
  constructor(onAccept) {
    this.section = byId("invitation");
    this.field = byId("guest-name");
    this.error = byId("guest-error");
    byId("invitation-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      const name = this.field.value.trim();
      const problem = name === "" ? "Please choose a name." : userNameProblem(name);
      this.error.textContent = problem ?? "";
      this.field.setAttribute("aria-invalid", String(problem !== null));
      if (problem === null) onAccept(name);
      else this.field.focus();
    };
    this.field.oninput = () => {
      this.error.textContent = "";
      this.field.setAttribute("aria-invalid", "false");
    };
    byId("guest-anonymous").onclick = () => onAccept("");
  }

  get isShown() {
    return !this.section.hidden;
  }

  /** @param {string} room */
  show(room) {
    this.room = room;
    byId("invitation-room").textContent = room;
    this.section.hidden = false;
    this.field.focus();
  }

  hide() {
    this.section.hidden = true;
  }
}
