/**
 * The demo page: several rooms at once over one connection.
 *
 * It is an application of roomcast.js like any other and knows nothing of the wire.
 *  - What users wrote only ever becomes text, never markup.
 *  - Everything that grows is bounded: messages per room, notes among them, frames in the drawer.
 *  - A room shows its last messages when it is entered, and stays as it is when the connection is lost.
 *  - An error is shown where it happened: at the message, at the form, in the room's heading.
 */

import { Composer } from "/composer.js";
import { byId, memory, sentence, tabMemory } from "/dom.js";
import { FrameDrawer } from "/frames.js";
import { Invitation, InviteButton, roomInAddress } from "/invite.js";
import { LogPane } from "/log.js";
import { MembersPane } from "/members.js";
import { NameForm } from "/name.js";
import { OutgoingMessage } from "/outgoing.js";
import { RoomView } from "/room.js";
import { Roomcast, roomNameProblem } from "/roomcast.js";
import { StatusPill } from "/status.js";
import { TokenDialog } from "/token.js";

const FIRST_ROOM = "lobby";
/** Messages that a room begins with. */
const HISTORY = 50;
/** By these, own messages are known in what a room replays. */
const SESSIONS_KEPT = 100;

/** Of a connection that the server has ended by policy. */
const CLOSE_POLICY = 1008;

/** @param {import("/roomcast.js").RoomcastError} error */
function joinFailure(error) {
  switch (error.code) {
    case "disconnected":
      return "the connection was lost";
    case "closed":
      return "there is no connection";
    case "timeout":
      return "the server did not answer";
    case "unavailable":
      return "the server cannot join rooms right now";
    case "rate_limited":
      return "too many commands in a short time";
    default:
      return error.message;
  }
}

class Page {
  /** @type {Map<string, RoomView>} */
  #rooms = new Map();
  /** @type {RoomView | null} */
  #active = null;
  /** @type {Roomcast} */
  #client;
  /** @type {import("/roomcast.js").StateDetail} */
  #connection = { state: "connecting", attempt: 0 };
  /** Those of earlier clients and earlier loads of the page in this tab are here too. @type {string[]} */
  #ownSessions = [];

  constructor() {
    this.status = new StatusPill(() => this.#client.connect());
    this.frames = new FrameDrawer();
    this.composer = new Composer((text) => this.#sendDraft(text));
    this.log = new LogPane(() => this.composer.focus());
    this.names = new NameForm(() => this.#renamed());
    this.tokens = new TokenDialog(() => this.#changeClient());
    this.members = new MembersPane();
    this.invite = new InviteButton(() => this.#active?.name ?? null);
    this.invitation = new Invitation((name) => this.#acceptInvitation(name));
    this.roomInput = byId("room-input");
    const sessions = tabMemory.recall("sessions", []);
    if (Array.isArray(sessions)) this.#ownSessions = sessions;
    this.#client = this.#connect();
    this.#listen();
    this.#restoreRooms();
  }

  /* -- connection -- */

  #connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const options = { user: this.names.name || undefined, token: this.tokens.token || undefined };
    const client = new Roomcast(`${scheme}//${location.host}/ws`, options);
    client.on("state", (detail) => this.#stateChanged(detail));
    client.on("message", (message) => this.#messageArrived(message));
    client.on("subscribed", (subscribed) => this.#joined(subscribed));
    client.on("unsubscribed", ({ room }) => this.#removed(room));
    client.on("error", (error) => this.#troubled(error));
    client.on("gap", (gap) => this.#missed(gap));
    client.on("frame", (frame) => this.frames.add(frame));
    return client;
  }

  #renamed() {
    this.#changeClient();
    // A guest may as well have found the other field.
    if (this.invitation.isShown) this.#acceptInvitation(this.names.name);
  }

  /** Name and token belong to a session, so another one takes a new connection. */
  #changeClient() {
    const before = this.#client;
    const wasRefused = before.state === "closed";
    const rooms = new Set(before.rooms);
    this.#client = this.#connect();
    before.close();
    this.#stateChanged({ state: "connecting", attempt: 0 });
    for (const room of this.#rooms.values()) {
      if (!wasRefused && !rooms.has(room.name)) continue;
      room.setMembership("joining");
      this.#subscribe(room.name);
    }
    this.#showHeading();
  }

  /** @param {import("/roomcast.js").StateDetail} detail */
  #stateChanged(detail) {
    this.status.show(detail);
    this.#connection = detail;
    if (detail.state === "live") this.#sessionBegan();
    else this.#sessionEnded();
    this.#showHeading();
    const isRefused = detail.state === "closed" && detail.code === CLOSE_POLICY;
    if (isRefused && this.tokens.token !== "") this.tokens.ask(detail.reason ?? "");
  }

  #sessionBegan() {
    this.#ownSessions = [...this.#ownSessions, this.#client.session ?? ""].slice(-SESSIONS_KEPT);
    tabMemory.keep("sessions", this.#ownSessions);
  }

  #sessionEnded() {
    for (const room of this.#rooms.values()) {
      if (room.membership !== "out") room.setMembership("joining");
    }
  }

  /* -- rooms -- */

  #restoreRooms() {
    const kept = memory.recall("rooms", []);
    for (const name of Array.isArray(kept) ? kept : []) {
      if (roomNameProblem(name) === null) this.#open(name);
    }
    if (!this.#followAddress()) this.#selectAny();
  }

  #selectAny() {
    this.#select(this.#rooms.get(memory.recall("active", "")) ?? [...this.#rooms.values()][0] ?? null);
  }

  /** @param {string} name  empty if the guest wants none */
  #acceptInvitation(name) {
    const { room } = this.invitation;
    this.invitation.hide();
    this.names.take(name);
    this.#joinAndWrite(room);
  }

  /** @returns {boolean} whether it leads anywhere */
  #followAddress() {
    const { room, isInvitation } = roomInAddress();
    if (room === "") return false;
    // One who is called nothing is asked for a name first.
    const isGuest = isInvitation && this.names.name === "" && !this.#rooms.has(room);
    if (!isGuest || roomNameProblem(room) !== null) return this.#join(room);
    const { hash } = location;
    this.#select(null);
    history.replaceState(null, "", hash);
    byId("welcome").hidden = true;
    this.invitation.show(room);
    return true;
  }

  /** @param {string} name @returns {boolean} whether the name can be a room's */
  #join(name) {
    const problem = roomNameProblem(name);
    this.#showJoinError(problem ?? "", problem !== null);
    if (problem !== null) return false;
    this.#select(this.#rooms.get(name) ?? this.#open(name));
    return true;
  }

  /** @param {string} name */
  #open(name) {
    const room = new RoomView(name, (chosen) => this.#select(chosen));
    this.#rooms.set(name, room);
    byId("room-list").append(room.tabItem);
    this.#roomsChanged();
    this.#subscribe(name);
    return room;
  }

  /** @param {string} name */
  #subscribe(name) {
    const client = this.#client;
    const room = this.#rooms.get(name);
    room?.attend(client.memberList(name), () => this.#attendanceChanged(room));
    client.subscribe(name, { history: HISTORY, presence: true, ...room?.position }).catch((error) => {
      // Left meanwhile, or the connection was exchanged for one with another name.
      if (client !== this.#client || error.code === "cancelled" || !this.#rooms.has(name)) return;
      if (error.retryable) this.#stillTrying(name, error);
      else this.#refused(name, error);
    });
  }

  /** @param {string} name @param {import("/roomcast.js").RoomcastError} error */
  #stillTrying(name, error) {
    // Without a connection the heading says enough.
    if (error.code === "disconnected") return;
    this.#rooms.get(name)?.setMembership("trying", joinFailure(error));
    this.#showJoinError(`Not in “${name}” yet: ${joinFailure(error)}. Trying again.`);
    this.#showHeading();
  }

  /** @param {string} name @param {import("/roomcast.js").RoomcastError} error */
  #refused(name, error) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    if (error.code === "closed" || room.everJoined) {
      room.setMembership("out", joinFailure(error));
      return this.#showHeading();
    }
    this.#drop(room);
    if (this.roomInput.value === "") this.roomInput.value = name;
    this.#showJoinError(`Cannot join “${name}”. ${sentence(joinFailure(error))}`, true);
  }

  /** @param {import("/roomcast.js").SubscribedDetail} subscribed */
  #joined({ room: name, offset, recovered }) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    // A new client that had nothing to go on from cannot know that the page has been here before.
    if (room.everJoined && recovered === undefined && offset === undefined) room.addGap({});
    if (room.membership === "trying") this.#showJoinError("");
    room.replayIsNews = recovered !== undefined;
    room.setMembership("joined");
    this.#showHeading();
    this.#follow(room);
  }

  /** @param {import("/roomcast.js").GapDetail} gap */
  #missed({ room: name, ...gap }) {
    const room = this.#rooms.get(name);
    if (room === undefined) return;
    room.addGap(gap);
    this.#follow(room);
  }

  /** The server's decision; a room that was left here is not listed any more. @param {string} name */
  #removed(name) {
    this.#rooms.get(name)?.setMembership("out", "the server has ended your membership");
    this.#showHeading();
  }

  /** @param {import("/roomcast.js").RoomcastError} error */
  #troubled(error) {
    if (error.code === "unauthorized") {
      const wasShown = this.tokens.token !== "" || this.tokens.isAsking;
      this.tokens.ask(wasShown ? error.message : "");
    } else if (error.room === undefined) this.#active?.addNote(`The server reports: ${sentence(error.message)}`);
    else if (error.retryable) this.#stillTrying(error.room, error);
    else this.#refused(error.room, error);
  }

  /** @param {RoomView} room */
  #leave(room) {
    this.#drop(room);
    // A short screen shows no fields while the message field has the focus, and what is not shown cannot take it.
    this.composer.blur();
    // Refused for now, it is repeated by the client; and the room is not shown any more either way.
    this.#client.unsubscribe(room.name).catch(() => {});
    (this.#active?.tab ?? this.roomInput).focus();
  }

  /** @param {RoomView} room */
  #drop(room) {
    const names = [...this.#rooms.keys()];
    const place = names.indexOf(room.name);
    this.#rooms.delete(room.name);
    room.attendance?.close();
    room.tabItem.remove();
    if (room === this.#active) this.#select(this.#rooms.get(names[place + 1] ?? names[place - 1]) ?? null);
    this.#roomsChanged();
  }

  #roomsChanged() {
    byId("rooms-none").hidden = this.#rooms.size > 0;
    memory.keep("rooms", [...this.#rooms.keys()]);
    this.#showTitle();
  }

  /** @param {RoomView | null} room */
  #select(room) {
    const before = this.#active;
    if (before !== null) {
      before.draft = this.composer.text;
      before.scrollTop = this.log.scrollTop;
      before.setActive(false);
    }
    this.#active = room;
    this.invitation.hide();
    this.invite.hide();
    byId("welcome").hidden = room !== null;
    byId("room").hidden = room === null;
    memory.keep("active", room?.name ?? "");
    history.replaceState(null, "", room === null ? location.pathname : `#${encodeURIComponent(room.name)}`);
    if (room !== null) this.#showRoom(room);
    this.#showTitle();
  }

  /** @param {RoomView} room */
  #showRoom(room) {
    room.setActive(true);
    room.setUnread(0);
    room.tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    byId("room-title").textContent = room.name;
    this.composer.show(room.name, room.draft);
    this.members.show(room.attendance);
    this.#showHeading();
    this.log.show(room.view, room.scrollTop);
  }

  /** @param {RoomView} room */
  #attendanceChanged(room) {
    if (room !== this.#active) return;
    this.members.show(room.attendance);
    this.log.grown();
  }

  /* -- messages -- */

  /** @param {import("/roomcast.js").MessageDetail} message */
  #messageArrived(message) {
    const room = this.#rooms.get(message.room);
    if (room === undefined) return;
    const own = message.own || this.#ownSessions.includes(message.session ?? "");
    const isNews = !message.replayed || room.replayIsNews;
    if (isNews || room !== this.#active) room.addMessage(message, own);
    else this.log.quietly(() => room.addMessage(message, own));
    if (isNews && !own && (room !== this.#active || document.hidden)) {
      room.setUnread(room.unread + 1);
      this.#showTitle();
    }
    this.#follow(room);
  }

  /** @param {string} text */
  #sendDraft(text) {
    const room = this.#active;
    if (room === null) return;
    const outgoing = new OutgoingMessage(text, this.names.name || undefined, {
      again: () => this.#sendAgain(room, outgoing),
      edit: () => this.#edit(room, outgoing),
      discard: () => this.#discard(room, outgoing),
    });
    room.addOutgoing(outgoing);
    this.#send(room, outgoing);
    this.log.scrollToEnd();
  }

  /** @param {RoomView} room @param {OutgoingMessage} outgoing @returns {Promise<void>} */
  async #send(room, outgoing) {
    const client = this.#client;
    outgoing.showSending();
    try {
      room.sent(outgoing, await client.publish(room.name, outgoing.text, { key: outgoing.key }));
    } catch (failure) {
      const error = /** @type {import("/roomcast.js").RoomcastError} */ (failure);
      // What has not gone out under the old name goes under the new one.
      const isRenamed = client !== this.#client && error.code === "closed";
      if (isRenamed && error.outcome === "refused") return this.#send(room, outgoing);
      room.failed(outgoing, error);
    }
    this.#follow(room);
  }

  /** The buttons go with the failure, and would take the focus along. @param {RoomView} room @param {OutgoingMessage} outgoing */
  #sendAgain(room, outgoing) {
    this.composer.focus();
    this.#send(room, outgoing);
  }

  /** @param {RoomView} room @param {OutgoingMessage} outgoing */
  #edit(room, outgoing) {
    this.#discard(room, outgoing);
    this.composer.text = [this.composer.text, outgoing.text].filter((text) => text !== "").join("\n");
  }

  /** @param {RoomView} room @param {OutgoingMessage} outgoing */
  #discard(room, outgoing) {
    room.removeOutgoing(outgoing);
    this.composer.focus();
  }

  /** @param {RoomView} room */
  #follow(room) {
    if (room === this.#active) this.log.grown();
  }

  /* -- showing -- */

  #showHeading() {
    const room = this.#active;
    if (room === null) return;
    const words = this.#membershipWords(room);
    byId("room-state").textContent = words;
    byId("room-state").title = words;
    byId("rejoin").hidden = room.membership !== "out";
  }

  /** @param {RoomView} room */
  #membershipWords(room) {
    if (room.membership === "out") return `Not a member: ${room.obstacle}`;
    const { state, reason } = this.#connection;
    if (state === "closed") return reason ? `The server ended the connection: ${reason}` : "Disconnected";
    if (state !== "live") return "Waiting for the connection";
    if (room.membership === "trying") return `Not joined yet: ${room.obstacle}. Trying again`;
    return room.membership === "joined" ? "Joined" : "Joining";
  }

  #showTitle() {
    const unread = [...this.#rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    const place = this.#active === null ? "roomcast" : `${this.#active.name} · roomcast`;
    document.title = unread > 0 ? `(${unread}) ${place}` : place;
  }

  /** @param {string} text @param {boolean} [invalid] whether the name itself is at fault */
  #showJoinError(text, invalid = false) {
    byId("join-error").textContent = text;
    this.roomInput.setAttribute("aria-invalid", String(invalid));
  }

  /* -- input -- */

  #listen() {
    this.#listenToForms();
    byId("leave").onclick = () => this.#active && this.#leave(this.#active);
    byId("rejoin").onclick = () => this.#rejoin();
    byId("join-lobby").onclick = () => this.#joinAndWrite(FIRST_ROOM);
    byId("skip-link").onclick = (/** @type {Event} */ event) => {
      event.preventDefault();
      (this.#active === null ? this.roomInput : this.composer).focus();
    };
    // On a short screen the fields stand back while a message is written. A button that took the focus when it is
    // pressed would bring them back, be moved from under the pointer by them, and never be clicked.
    byId("layout").addEventListener("mousedown", (/** @type {MouseEvent} */ event) => {
      const pressed = /** @type {Element} */ (event.target).closest("button, a");
      if (pressed !== null && this.composer.isFocused) event.preventDefault();
    });
    window.addEventListener("hashchange", () => this.#followAddress());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden || this.#active === null) return;
      this.#active.setUnread(0);
      this.#showTitle();
    });
  }

  #listenToForms() {
    this.roomInput.oninput = () => this.#showJoinError("");
    byId("join-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#joinAndWrite(this.roomInput.value.trim());
    };
  }

  /** @param {string} name */
  #joinAndWrite(name) {
    if (!this.#join(name)) return this.roomInput.focus();
    this.roomInput.value = "";
    this.composer.focus();
  }

  #rejoin() {
    const room = this.#active;
    if (room === null) return;
    room.setMembership("joining");
    this.#client.connect();
    this.#subscribe(room.name);
    this.#showHeading();
    this.composer.focus();
  }
}

new Page();
