/**
 * roomcast.js: a client for roomcast servers, as one ES module without dependencies.
 *
 * It speaks the dialect `roomcast.v1`: every command carries an id, gets exactly one reply, and becomes a promise here.
 * Around that it keeps the connection alive and the rooms joined.
 *
 * What it promises:
 *  - A room is wanted from `subscribe()` until `unsubscribe()`, or until the server refuses it for good. Wanted rooms
 *    are joined again on every new connection; a refusal that may pass is tried again with backoff.
 *  - Every promise settles. Once a request is on the wire it ends with the server's reply, with the loss of its
 *    connection, or with the request timeout. Before that only `subscribe()` waits, for the connection.
 *  - A publish is sent at most once. Whether a failed one may have been delivered is told by `RoomcastError.outcome`.
 *  - After `unsubscribe()` is called, no message of the room is reported any more.
 *  - What the server said is applied before anybody is told of it, so a listener may call any method.
 *
 * Two classes: `Connection` is one socket from its opening to its end, with the requests in flight on it; `Roomcast`
 * outlives connections and knows the rooms. Messages that were published while no connection was up are not fetched.
 *
 * @module
 */

const SUBPROTOCOL = "roomcast.v1";
const ROOM_NAME_MAX_BYTES = 255;
const USER_NAME_MAX_BYTES = 128;

const REQUEST_TIMEOUT_MS = 10_000;
/** From the first packet to `welcome`; a half-open network must not hold up the next attempt. */
const CONNECT_TIMEOUT_MS = 10_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_CAP_MS = 15_000;
/** A browser hides the server's pings, so silence is judged by frames alone: that many heartbeats, then one question. */
const SILENCE_IN_HEARTBEATS = 1.5;
const PROBE_TIMEOUT_MS = 5_000;
const PROBE_ID = 0;

const CLOSE_NORMAL = 1000;
const CLOSE_ABNORMAL = 1006;
const CLOSE_POLICY = 1008;
const CLOSE_TOO_BIG = 1009;
/** Ours, towards the server: the connection was given up for being silent. */
const CLOSE_SILENT = 4000;

/** Codes after which the same call may succeed later, unchanged. */
const RETRYABLE_CODES = new Set(["unavailable", "rate_limited", "internal", "disconnected", "timeout"]);

const utf8 = new TextEncoder();

/**
 * @typedef {"connecting" | "live" | "reconnecting" | "closed"} ConnectionState
 *
 * @typedef {object} StateDetail
 * @property {ConnectionState} state
 * @property {number} attempt   failed attempts since the last `welcome`
 * @property {number} [retryAt] Unix milliseconds of the next attempt; absent while one is under way
 * @property {number} [code]    WebSocket close code, when a connection has just ended
 * @property {string} [reason]  what the server said about it, perhaps empty
 *
 * @typedef {object} MessageDetail
 * @property {string} room
 * @property {unknown} message   any JSON value
 * @property {string} [sender]   the publishing session's user, if it has one
 * @property {string} [session]  the publishing session; compare with `Roomcast.session`
 * @property {number} [time]     Unix milliseconds
 * @property {number} [offset]   position in the room, where the server keeps history
 *
 * @typedef {object} Position    what the server answers to subscribe() and publish()
 * @property {string} room
 * @property {number} [offset]   only where the server keeps history
 * @property {string} [epoch]    names the numbering that `offset` belongs to
 *
 * @typedef {{room: string}} RoomDetail
 * @typedef {{room: string, after?: number, offset?: number, epoch?: string}} GapDetail
 * @typedef {{direction: "in" | "out", text: string}} FrameDetail
 * @typedef {{closesInMs: number}} ByeDetail
 *
 * @typedef {object} RoomcastEventMap    event name to the event's `detail`
 * @property {StateDetail} state
 * @property {MessageDetail} message
 * @property {Position} subscribed       a room is joined, for the first time or again
 * @property {RoomDetail} unsubscribed   a room is left, by wish or by the server
 * @property {RoomcastError} error       an error that belongs to no call, or a failed attempt to join a room again
 * @property {GapDetail} gap             messages of a joined room cannot be had any more
 * @property {ByeDetail} bye             the server is about to stop
 * @property {FrameDetail} frame         every text frame, for developer tools
 *
 * @typedef {object} RoomcastOptions
 * @property {string} [user]             display name, sent as `?user=`; servers that check tokens ignore it
 * @property {typeof WebSocket} [WebSocket]  the implementation; default: the global one
 * @property {number} [requestTimeout]   milliseconds to wait for a reply; default 10,000
 * @property {number} [connectTimeout]   milliseconds to wait for `welcome`; default 10,000
 * @property {number} [backoffFirst]     upper bound of the first wait in milliseconds; doubles per attempt; default 500
 * @property {number} [backoffCap]       upper bound of every wait in milliseconds; default 15,000
 *
 * @typedef {"refused" | "unknown"} Outcome
 */

/** Why a call failed: the server's words, or one of this module's own codes. */
export class RoomcastError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{outcome?: Outcome, room?: string, cause?: unknown}} [context]
   */
  constructor(code, message, { outcome, room, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "RoomcastError";
    /** The server's error code, or `disconnected`, `timeout`, `closed`. @type {string} */
    this.code = code;
    /**
     * Of a publish only. `refused`: certainly not published. `unknown`: perhaps published. @type {Outcome | undefined}
     */
    this.outcome = outcome;
    /** The room that the failed command was about. @type {string | undefined} */
    this.room = room;
  }

  /** Whether the same call may succeed later, unchanged. @type {boolean} */
  get retryable() {
    return RETRYABLE_CODES.has(this.code);
  }
}

/**
 * What is wrong with a room name, or null if nothing is.
 *
 * @param {unknown} name
 * @returns {string | null}
 */
export function roomNameProblem(name) {
  return nameProblem(name, "A room name", ROOM_NAME_MAX_BYTES);
}

/**
 * What is wrong with a display name, or null if nothing is. The empty name is good: it means anonymous.
 *
 * @param {unknown} name
 * @returns {string | null}
 */
export function userNameProblem(name) {
  return name === "" ? null : nameProblem(name, "A display name", USER_NAME_MAX_BYTES);
}

/** @param {unknown} name @param {string} what @param {number} maxBytes */
function nameProblem(name, what, maxBytes) {
  if (typeof name !== "string" || name === "") return `${what} needs at least one character.`;
  if (/\p{Cc}/u.test(name)) return `${what} cannot contain control characters such as tabs or line breaks.`;
  // A lone surrogate has no UTF-8 form: it would arrive as another name.
  if (/\p{Cs}/u.test(name)) return `${what} has to be well-formed Unicode.`;
  const bytes = utf8.encode(name).length;
  return bytes > maxBytes ? `${what} can be at most ${maxBytes} bytes long; this one has ${bytes}.` : null;
}

/**
 * One socket: opening, welcomed, ended, never back. Knows requests and liveness, and nothing about rooms.
 *
 * `lost` is reported exactly once, after every request in flight has failed, and not after `dispose()`.
 * It never waits for the closing handshake: on a dead network a browser takes minutes to report its end.
 */
class Connection {
  /** @type {WebSocket} */
  #socket;
  #observer;
  /** @type {Map<number, {settle: (error: RoomcastError | null, reply?: any) => void, timer: any, bytes: number, frame: any}>} */
  #requests = new Map();
  #heartbeatMs = 0;
  #lastInbound = 0;
  /** One timer at a time: for the welcome, then for silence, then for the answer to a probe. @type {any} */
  #watchdog;
  #ended = false;

  /** The server's first frame, null before it. @type {any} */
  welcome = null;

  /**
   * @param {string} url
   * @param {{WebSocket: typeof WebSocket, connectTimeout: number}} options
   * @param {{
   *   text: (direction: "in" | "out", text: string) => void,
   *   welcomed: (connection: Connection) => void,
   *   frame: (frame: any) => void,
   *   lost: (code: number, reason: string) => void,
   * }} observer
   */
  constructor(url, options, observer) {
    this.#observer = observer;
    this.#socket = new options.WebSocket(url, [SUBPROTOCOL]);
    this.#socket.onmessage = (event) => this.#receive(event.data);
    this.#socket.onclose = (event) => this.#end(event.code, event.reason);
    // The close event that follows says the same and more, but an EventEmitter without this handler would throw.
    this.#socket.onerror = () => {};
    this.#watchdog = setTimeout(() => this.#abandon("no welcome in time"), options.connectTimeout);
  }

  /**
   * Sends a command. `settle` gets its reply or its failure, exactly once.
   *
   * @param {number} id
   * @param {object} command
   * @param {number} timeoutMs
   * @param {(error: RoomcastError | null, reply?: any) => void} settle
   */
  request(id, command, timeoutMs, settle) {
    const frame = { ...command, id };
    const text = JSON.stringify(frame);
    const timer = setTimeout(
      () => this.#fail(id, "timeout", `no reply within ${timeoutMs / 1000} s`, "unknown"),
      timeoutMs,
    );
    this.#requests.set(id, { settle, timer, frame, bytes: utf8.encode(text).length });
    this.#send(text);
  }

  /** Asks the server for a sign of life; without one the connection is given up. */
  probe() {
    if (this.#ended || this.welcome === null) return;
    const patienceMs = this.#heartbeatMs > 0 ? Math.min(PROBE_TIMEOUT_MS, this.#heartbeatMs) : PROBE_TIMEOUT_MS;
    const askedAt = Date.now();
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      if (this.#lastInbound < askedAt) this.#abandon("the server went silent");
      else this.#watchSilence();
    }, patienceMs);
    this.#send(JSON.stringify({ type: "PING", id: PROBE_ID }));
  }

  /** Closes without a report; requests in flight fail. @param {string} reason */
  dispose(reason) {
    this.#observer = { ...this.#observer, lost: () => {} };
    this.#end(CLOSE_NORMAL, reason);
    this.#socket.close(CLOSE_NORMAL, reason);
  }

  /** @param {string} text */
  #send(text) {
    // A socket that is closing already drops the text; the loss then fails the request.
    if (this.#socket.readyState !== 1) return;
    this.#socket.send(text);
    this.#observer.text("out", text);
  }

  /** @param {unknown} text */
  #receive(text) {
    if (typeof text !== "string") return;
    // Monotonic enough: a clock set back costs one needless probe at worst.
    this.#lastInbound = Date.now();
    this.#observer.text("in", text);
    // A frame listener may have closed the client.
    if (this.#ended) return;
    const frame = parseObject(text);
    if (frame === null) return;
    if (frame.type === "welcome") this.#welcomed(frame);
    else this.#dispatch(frame);
  }

  /** @param {any} frame */
  #welcomed(frame) {
    this.welcome = frame;
    this.#heartbeatMs = Number.isFinite(frame.heartbeat) ? Math.max(0, frame.heartbeat * 1000) : 0;
    clearTimeout(this.#watchdog);
    this.#watchSilence();
    this.#observer.welcomed(this);
  }

  /** @param {any} frame */
  #dispatch(frame) {
    // Even a refused probe is a sign of life, and nobody asked for more.
    if (frame.id === PROBE_ID) return;
    const request = this.#requests.get(frame.id);
    if (request !== undefined) this.#forget(frame.id, request);
    // State before promises: the observer learns of the room first, then the caller.
    if (request === undefined || frame.type !== "error") this.#observer.frame(frame);
    request?.settle(frame.type === "error" ? errorOf(frame, request.frame) : null, frame);
  }

  #watchSilence() {
    if (this.#ended || this.#heartbeatMs === 0) return;
    const silentSince = this.#lastInbound;
    const dueMs = silentSince + this.#heartbeatMs * SILENCE_IN_HEARTBEATS - Date.now();
    this.#watchdog = setTimeout(() => {
      if (this.#lastInbound === silentSince) this.probe();
      else this.#watchSilence();
    }, Math.max(0, dueMs));
  }

  /** @param {string} reason */
  #abandon(reason) {
    this.#end(CLOSE_ABNORMAL, reason);
    this.#socket.close(CLOSE_SILENT, reason);
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.#ended) return;
    this.#ended = true;
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    clearTimeout(this.#watchdog);
    if (code === CLOSE_TOO_BIG) this.#failLargestPublish();
    for (const id of [...this.#requests.keys()]) {
      this.#fail(id, "disconnected", "the connection was lost before the server answered", "unknown");
    }
    this.#observer.lost(code, reason);
  }

  /** 1009 names no command. But whichever frame was too big, the biggest one in flight is no smaller: it was refused. */
  #failLargestPublish() {
    const publishes = [...this.#requests].filter(([, request]) => request.frame.type === "sendMessage");
    const [id] = publishes.reduce((a, b) => (b[1].bytes > a[1].bytes ? b : a), publishes[0] ?? []);
    if (id !== undefined) this.#fail(id, "message_too_large", "the message is larger than this server takes", "refused");
  }

  /** @param {number} id @param {string} code @param {string} message @param {Outcome} outcome */
  #fail(id, code, message, outcome) {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    this.#forget(id, request);
    const { type, room } = request.frame;
    request.settle(new RoomcastError(code, message, { room, outcome: type === "sendMessage" ? outcome : undefined }));
  }

  /** @param {number} id @param {{timer: any}} request */
  #forget(id, request) {
    clearTimeout(request.timer);
    this.#requests.delete(id);
  }
}

/**
 * What the client knows of one room: whether the application wants it, and which command about it is on its way.
 *
 * @typedef {object} Room
 * @property {string} name
 * @property {boolean} wanted
 * @property {number | null} command   id of the newest SUBSCRIBE or UNSUBSCRIBE in flight
 * @property {number} failures         refusals in a row on this connection
 * @property {any} retryTimer
 * @property {Settle[]} waiting    subscribe() calls made while no connection was up
 *
 * @typedef {(error: RoomcastError | null, reply?: any) => void} Settle
 */

/**
 * A client for one roomcast server, or for several nodes of one. It connects when constructed and stays connected
 * until `close()`, or until the server closes it for policy (1008).
 *
 * Listen with `on()`, or with `addEventListener()` and read `event.detail`; see {@link RoomcastEventMap}.
 */
export class Roomcast extends EventTarget {
  /** @type {string[]} */
  #urls;
  #options;
  /** @type {Map<string, Room>} */
  #rooms = new Map();
  /** @type {Connection | null} */
  #connection = null;
  /** @type {ConnectionState} */
  #state = "connecting";
  #attempt = 0;
  /** @type {number | undefined} */
  #retryAt;
  /** @type {any} */
  #retryTimer;
  #nextUrl = 0;
  /** Never repeats, not even across connections. */
  #nextId = PROBE_ID + 1;
  #onOnline = () => this.#networkIsBack();

  /**
   * @param {string | URL | (string | URL)[]} urls  one URL or several, each with ws:, wss:, http: or https:, or, in a
   *   browser, relative to the page. Each attempt takes the next one.
   * @param {RoomcastOptions} [options]
   * @throws {TypeError} without a URL, with a malformed one, or without a WebSocket implementation
   */
  constructor(urls, options = {}) {
    super();
    this.#options = {
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      requestTimeout: options.requestTimeout ?? REQUEST_TIMEOUT_MS,
      connectTimeout: options.connectTimeout ?? CONNECT_TIMEOUT_MS,
      backoffFirst: options.backoffFirst ?? BACKOFF_FIRST_MS,
      backoffCap: options.backoffCap ?? BACKOFF_CAP_MS,
    };
    if (typeof this.#options.WebSocket !== "function") {
      throw new TypeError("no global WebSocket here; pass an implementation as options.WebSocket");
    }
    this.#urls = [urls].flat().map((url) => socketUrl(url, options.user));
    if (this.#urls.length === 0) throw new TypeError("at least one URL is needed");
    this.#start();
  }

  /** @type {ConnectionState} */
  get state() {
    return this.#state;
  }

  /** This connection's session id, as in the `session` of its own messages; null while not live. @type {string | null} */
  get session() {
    return this.#state === "live" ? this.#connection?.welcome.session ?? null : null;
  }

  /** The wanted rooms, joined at present or not. @type {string[]} */
  get rooms() {
    return [...this.#rooms.values()].filter((room) => room.wanted).map((room) => room.name);
  }

  /**
   * Joins a room and keeps it joined over reconnects. While not connected it waits for the connection.
   * Rejected with a retryable code, the room stays wanted and the client goes on trying: `subscribed` tells when it
   * worked. Rejected with any other code, it is not wanted any more.
   *
   * @param {string} room
   * @returns {Promise<Position>}
   */
  subscribe(room) {
    const problem = roomNameProblem(room);
    if (problem !== null) return Promise.reject(new RoomcastError("bad_room", problem, { room }));
    if (this.#state === "closed") return Promise.reject(closedError({ room }));
    const wanted = this.#room(room);
    wanted.wanted = true;
    return new Promise((resolve, reject) => {
      const settle = settler(resolve, reject, positionOf);
      if (this.#state === "live") this.#command(wanted, [settle]);
      else wanted.waiting.push(settle);
    });
  }

  /**
   * Leaves a room. Resolves at once while not connected, and when the connection is lost before the reply: a session
   * that ends leaves its rooms.
   *
   * @param {string} room
   * @returns {Promise<RoomDetail>}
   */
  unsubscribe(room) {
    const problem = roomNameProblem(room);
    if (problem !== null) return Promise.reject(new RoomcastError("bad_room", problem, { room }));
    const left = this.#room(room);
    left.wanted = false;
    const waiting = left.waiting.splice(0);
    for (const settle of waiting) settle(new RoomcastError("cancelled", "the room was left before it was joined", { room }));
    if (this.#state !== "live") {
      this.#forgetRoom(left);
      this.#emit("unsubscribed", { room });
      return Promise.resolve({ room });
    }
    return new Promise((resolve, reject) => {
      const settle = settler(resolve, reject, () => ({ room }));
      this.#command(left, [(error, reply) => settle(error?.code === "disconnected" ? null : error, reply)]);
    });
  }

  /**
   * Publishes a message. Resolves when the server's broker has accepted it. Needs no subscription, and never waits for
   * a connection: while not live it is rejected at once (`disconnected`, outcome `refused`).
   *
   * @param {string} room
   * @param {unknown} message  any JSON value
   * @returns {Promise<Position>}
   */
  publish(room, message) {
    const refuse = (/** @type {string} */ code, /** @type {string} */ why, /** @type {unknown} */ cause = undefined) =>
      Promise.reject(new RoomcastError(code, why, { room, outcome: "refused", cause }));
    const problem = roomNameProblem(room);
    if (problem !== null) return refuse("bad_room", problem);
    try {
      if (JSON.stringify(message) === undefined) return refuse("bad_command", "the message has no JSON form");
    } catch (cause) {
      return refuse("bad_command", "the message has no JSON form", cause);
    }
    if (this.#state === "closed") return Promise.reject(closedError({ room, outcome: "refused" }));
    if (this.#state !== "live") return refuse("disconnected", "not connected; nothing was sent");
    return new Promise((resolve, reject) => {
      this.#request({ type: "sendMessage", room, message }, settler(resolve, reject, positionOf));
    });
  }

  /** Connects now instead of at `retryAt`; also revives a closed client, its wanted rooms included. */
  connect() {
    if (this.#state === "closed") {
      this.#attempt = 0;
      this.#state = "connecting";
      this.#start();
      this.#emitState();
    } else if (this.#retryAt !== undefined) {
      this.#open();
    }
  }

  /** Ends the connection and stays closed. Requests in flight and waiting calls are rejected. */
  close() {
    if (this.#state === "closed") return;
    const connection = this.#connection;
    this.#connection = null;
    this.#stop();
    connection?.dispose("client closed");
    this.#roomsAreGone();
    this.#rejectWaiting();
    this.#emitState({ code: CLOSE_NORMAL, reason: "" });
  }

  /**
   * Calls `listener` with the detail of each event of this type. What it throws is reported on the console.
   *
   * @template {keyof RoomcastEventMap} T
   * @param {T} type
   * @param {(detail: RoomcastEventMap[T]) => void} listener
   * @returns {() => void} stops listening
   */
  on(type, listener) {
    const handle = (/** @type {any} */ event) => {
      // Node ends the process for an error thrown in an EventTarget's listener; a browser reports it and goes on.
      try {
        listener(event.detail);
      } catch (error) {
        console.error(`roomcast: a listener for "${type}" threw`, error);
      }
    };
    this.addEventListener(type, handle);
    return () => this.removeEventListener(type, handle);
  }

  #start() {
    globalThis.addEventListener?.("online", this.#onOnline);
    this.#open();
  }

  #stop() {
    globalThis.removeEventListener?.("online", this.#onOnline);
    clearTimeout(this.#retryTimer);
    this.#retryAt = undefined;
    this.#state = "closed";
  }

  #open() {
    clearTimeout(this.#retryTimer);
    const waited = this.#retryAt !== undefined;
    this.#retryAt = undefined;
    const url = this.#urls[this.#nextUrl++ % this.#urls.length];
    try {
      this.#connection = this.#connectionTo(url);
    } catch (error) {
      // The platform refuses this URL, such as ws: from an https: page. At first it is the caller's to know; later the
      // next URL of the list may do.
      if (!waited) throw error;
      return this.#lost(CLOSE_ABNORMAL, String(error));
    }
    if (waited) this.#emitState();
  }

  /** @param {string} url */
  #connectionTo(url) {
    return new Connection(url, this.#options, {
      text: (direction, text) => this.#emit("frame", { direction, text }),
      welcomed: (connection) => this.#live(connection),
      frame: (frame) => this.#apply(frame),
      lost: (code, reason) => this.#lost(code, reason),
    });
  }

  /** @param {Connection} connection */
  #live(connection) {
    this.#connection = connection;
    this.#attempt = 0;
    this.#state = "live";
    for (const room of [...this.#rooms.values()]) this.#command(room, room.waiting.splice(0));
    this.#emitState();
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    this.#connection = null;
    this.#roomsAreGone();
    if (code === CLOSE_POLICY) {
      this.#stop();
      this.#rejectWaiting();
    } else {
      this.#scheduleRetry();
    }
    this.#emitState({ code, reason });
  }

  #scheduleRetry() {
    const delayMs = this.#jittered(this.#attempt);
    this.#attempt += 1;
    this.#state = "reconnecting";
    this.#retryAt = Date.now() + delayMs;
    this.#retryTimer = setTimeout(() => this.#open(), delayMs);
  }

  /** Full jitter: after a restart thousands of clients come back spread over the whole span. @param {number} failures */
  #jittered(failures) {
    const { backoffFirst, backoffCap } = this.#options;
    return Math.random() * Math.min(backoffCap, backoffFirst * 2 ** failures);
  }

  #networkIsBack() {
    if (this.#state === "live") this.#connection?.probe();
    else this.connect();
  }

  /** @param {any} frame */
  #apply(frame) {
    switch (frame.type) {
      case "message":
        return this.#applyMessage(frame);
      case "subscribed":
        return this.#applySubscribed(frame);
      case "unsubscribed":
        return this.#applyUnsubscribed(frame);
      case "gap":
        return this.#emit("gap", { room: frame.room, after: frame.after, offset: frame.offset, epoch: frame.epoch });
      case "bye":
        return this.#emit("bye", { closesInMs: frame.closes_in_ms });
      case "error":
        return this.#emit("error", errorOf(frame, {}));
      default: // a newer server may say more
    }
  }

  /** @param {any} frame */
  #applyMessage({ room, message, sender, session, time, offset }) {
    if (!this.#rooms.get(room)?.wanted) return;
    this.#emit("message", { room, message, sender, session, time, offset });
  }

  /** @param {any} frame */
  #applySubscribed(frame) {
    const room = this.#rooms.get(frame.room);
    if (room === undefined) return;
    if (frame.id === room.command) room.command = null;
    if (!room.wanted) return;
    room.failures = 0;
    clearTimeout(room.retryTimer);
    this.#emit("subscribed", positionOf(frame));
  }

  /** The server's answer, or, without an id, its own decision. @param {any} frame */
  #applyUnsubscribed(frame) {
    const room = this.#rooms.get(frame.room);
    if (room === undefined) return;
    if (frame.id === room.command) room.command = null;
    // A newer SUBSCRIBE is under way: the room is being joined again, its answer decides.
    if (room.command !== null) return;
    this.#forgetRoom(room);
    this.#emit("unsubscribed", { room: frame.room });
  }

  /** Tells the server the wish for a room. @param {Room} room @param {Settle[]} callers */
  #command(room, callers) {
    clearTimeout(room.retryTimer);
    const type = room.wanted ? "SUBSCRIBE" : "UNSUBSCRIBE";
    /** @type {Settle} */
    const settle = (error, reply) => {
      const unexpected = error !== null && this.#commandFailed(room, id, error);
      for (const caller of callers) caller(error, reply);
      if (unexpected && callers.length === 0) this.#emit("error", error);
    };
    const id = this.#nextId++;
    room.command = id;
    this.#connection?.request(id, { type, room: room.name }, this.#options.requestTimeout, settle);
  }

  /**
   * Only the newest command speaks for the room, and a lost connection says nothing: the next welcome starts over.
   *
   * @param {Room} room @param {number} id @param {RoomcastError} error
   * @returns {boolean} whether this changed what the room can expect
   */
  #commandFailed(room, id, error) {
    if (room.command !== id) return false;
    room.command = null;
    if (error.code === "disconnected") return false;
    if (error.retryable) this.#commandLater(room);
    else this.#forgetRoom(room);
    return true;
  }

  /** @param {Room} room */
  #commandLater(room) {
    const delayMs = this.#jittered(room.failures);
    room.failures += 1;
    room.retryTimer = setTimeout(() => this.#command(room, []), delayMs);
  }

  /** @param {object} command @param {Settle} settle */
  #request(command, settle) {
    this.#connection?.request(this.#nextId++, command, this.#options.requestTimeout, settle);
  }

  /** @param {string} name @returns {Room} */
  #room(name) {
    const known = this.#rooms.get(name);
    if (known !== undefined) return known;
    /** @type {Room} */
    const room = { name, wanted: false, command: null, failures: 0, retryTimer: undefined, waiting: [] };
    this.#rooms.set(name, room);
    return room;
  }

  /** @param {Room} room */
  #forgetRoom(room) {
    clearTimeout(room.retryTimer);
    room.wanted = false;
    this.#rooms.delete(room.name);
  }

  /** A session that ends leaves its rooms: those being left are left, the wanted ones start over. */
  #roomsAreGone() {
    for (const room of [...this.#rooms.values()]) {
      clearTimeout(room.retryTimer);
      room.command = null;
      room.failures = 0;
      if (room.wanted) continue;
      this.#forgetRoom(room);
      this.#emit("unsubscribed", { room: room.name });
    }
  }

  #rejectWaiting() {
    for (const room of this.#rooms.values()) {
      for (const settle of room.waiting.splice(0)) settle(closedError({ room: room.name }));
    }
  }

  /** @param {{code?: number, reason?: string}} [ending] */
  #emitState(ending = {}) {
    this.#emit("state", { state: this.#state, attempt: this.#attempt, retryAt: this.#retryAt, ...ending });
  }

  /** @param {keyof RoomcastEventMap} type @param {unknown} detail */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {string | URL} url @param {string | undefined} user */
function socketUrl(url, user) {
  const absolute = new URL(url, globalThis.location?.href);
  absolute.protocol = absolute.protocol.replace(/^http/, "ws");
  if (!/^wss?:$/.test(absolute.protocol)) throw new TypeError(`not a WebSocket URL: ${absolute.protocol}`);
  absolute.hash = "";
  if (user) absolute.searchParams.set("user", user);
  return absolute.href;
}

/** @param {string} text @returns {any} */
function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** @param {any} frame @param {any} command the request that it answers */
function errorOf(frame, command) {
  // Whatever the server refuses before the broker saw it is certainly not published; an internal error promises nothing.
  const outcome = frame.outcome ?? (frame.code === "internal" ? "unknown" : "refused");
  return new RoomcastError(frame.code ?? "internal", frame.message ?? "the server gave no reason", {
    room: command.room ?? frame.room,
    outcome: command.type === "sendMessage" ? outcome : frame.outcome,
  });
}

/** @param {{room?: string, outcome?: Outcome}} context */
function closedError(context) {
  return new RoomcastError("closed", "the client is closed", context);
}

/** @param {any} frame @returns {Position} */
function positionOf({ room, offset, epoch }) {
  return { room, offset, epoch };
}

/**
 * @template T
 * @param {(value: T) => void} resolve
 * @param {(error: RoomcastError) => void} reject
 * @param {(reply: any) => T} valueOf
 * @returns {Settle}
 */
function settler(resolve, reject, valueOf) {
  return (error, reply) => (error === null ? resolve(valueOf(reply)) : reject(error));
}
