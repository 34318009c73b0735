/**
 * A room's own messages on their way. Each stands here until the room itself delivers it, so that the log shows the
 * room's order, the same for everybody.
 *
 *  - `sending`: not answered yet, on the wire or waiting for it. `sent`: accepted, and to be delivered.
 *    `failed`: given up, with the reason, until it is sent again, edited or discarded.
 *  - A delivered message names its position but not its key. The server's answer names the position too, and may come
 *    later than the message, or, when connections are lost, much later. Until then equal texts are taken for the same:
 *    those still under way first, in their order, then those that failed without anybody knowing whether they arrived.
 */

import { element, sentence } from "/dom.js";
import { messageItem } from "/message.js";

/** @typedef {import("/roomcast.js").RoomcastError} RoomcastError */

export class OutgoingMessage {
  state = "sending";
  time = Date.now();
  /** Of its first attempt; sent again with it, the message is not doubled. @type {string | undefined} */
  key;
  /** Where the room has it, once the server has told. @type {import("/roomcast.js").Position | undefined} */
  position;
  /** Whether it may have arrived, though it failed. */
  #mayHaveArrived = false;

  /**
   * @param {string} text
   * @param {string | undefined} sender
   * @param {{again: () => void, edit: () => void, discard: () => void}} actions
   */
  constructor(text, sender, actions) {
    this.text = text;
    this.sender = sender;
    this.actions = actions;
    this.item = messageItem({ message: text, sender, own: true, time: this.time, state: this.state, grouped: false });
  }

  get failed() {
    return this.state === "failed";
  }

  /** Whether this message from the room can be it. @param {import("/roomcast.js").MessageDetail} message */
  mayBe({ message, offset, epoch }) {
    if (this.position?.offset !== undefined) return this.position.offset === offset && this.position.epoch === epoch;
    return this.text === message && (!this.failed || this.#mayHaveArrived);
  }

  showSending() {
    this.#show("sending");
  }

  showSent() {
    this.#show("sent");
  }

  /** @param {RoomcastError} error */
  showFailed(error) {
    this.#show("failed");
    this.key = error.key;
    this.#mayHaveArrived = error.outcome === "unknown";
    const action = (/** @type {string} */ label, /** @type {string} */ testid, /** @type {() => void} */ onclick) =>
      element("button", { type: "button", className: "button small", textContent: label, onclick, data: { testid } });
    const tooLarge = error.code === "message_too_large";
    const reason = element("p", { className: "failure-reason", textContent: sendFailure(error), data: { testid: "send-error" } });
    const choices = element(
      "p",
      { className: "failure-choices" },
      // The same text would be too long again.
      ...(tooLarge ? [] : [action("Send again", "resend", this.actions.again)]),
      action("Edit", "edit", this.actions.edit),
      action("Discard", "discard", this.actions.discard),
    );
    this.failure = element("div", { className: "failure", role: "alert" }, reason, choices);
    this.item.querySelector(".message-body").append(this.failure);
  }

  /** @param {string} state */
  #show(state) {
    this.failure?.remove();
    this.state = state;
    this.item.dataset.state = state;
  }
}

export class Outbox {
  /** @type {Set<OutgoingMessage>} */
  #messages = new Set();
  // One's own words need no reading out; they would be read twice, on their way and in the log. Failures are alerts.
  list = element("ol", { className: "messages outbox", ariaLive: "off" });

  get size() {
    return this.#messages.size;
  }

  /** @param {OutgoingMessage} outgoing */
  has(outgoing) {
    return this.#messages.has(outgoing);
  }

  /** @param {OutgoingMessage} outgoing */
  add(outgoing) {
    this.#messages.add(outgoing);
    this.list.append(outgoing.item);
  }

  /** @param {OutgoingMessage} outgoing */
  remove(outgoing) {
    this.#messages.delete(outgoing);
    outgoing.item.remove();
  }

  /** Removes the one that the room has delivered. @param {import("/roomcast.js").MessageDetail} message */
  take(message) {
    const possible = [...this.#messages].filter((outgoing) => outgoing.mayBe(message));
    const found = possible.find(({ position }) => position?.offset !== undefined)
      ?? possible.find(({ failed }) => !failed)
      ?? possible[0];
    if (found !== undefined) this.remove(found);
  }

  /** Removes and returns those that are accepted. */
  takeSent() {
    const sent = [...this.#messages].filter(({ state }) => state === "sent");
    for (const outgoing of sent) this.remove(outgoing);
    return sent;
  }
}

/** What went wrong with a message, for its author. @param {RoomcastError} error */
function sendFailure(error) {
  if (error.outcome === "unknown") return "No answer from the server. The message may have been delivered.";
  switch (error.code) {
    case "disconnected":
    case "closed":
      return "Not sent: there was no connection.";
    case "rate_limited":
      return "Not sent: too many messages in a short time. Wait a moment.";
    case "unavailable":
      return "Not sent: the server cannot take messages right now.";
    case "message_too_large":
      return `Too long to send. ${sentence(error.message)}`;
    default:
      return `Not sent. ${sentence(error.message)}`;
  }
}
