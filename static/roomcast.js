/**
 * roomcast.js: a client for roomcast servers, as one ES module without dependencies.
 *
 * It speaks the dialect `roomcast.v1`: every command carries an id, gets exactly one reply, and becomes a promise here.
 * Around that it keeps the connection alive and the rooms joined.
 *
 * What it promises:
 *  - A room is wanted from `subscribe()` until `unsubscribe()`, or until the server refuses it for good. Wanted rooms
 *    are joined again on every new connection; a refusal that may pass is tried again with backoff.
 *  - Where the server keeps history, a new connection goes on where the last one ended: messages published meanwhile are
 *    reported, in order, and none is reported twice. Whatever may be missing is announced by `gap`, without history too.
 *  - A message is published once, however often it has to be sent: every publish carries a key by which the server knows
 *    it again. One whose fate is unknown is sent again with the same key; one that cannot be sent yet waits.
 *  - Publishes to one room keep their order: the next is sent when the one before it has ended.
 *  - Every promise settles. A request on the wire ends with the server's reply, with the loss of its connection, or with
 *    the request timeout; a `publish()` ends within `publishTimeout`, and its error tells whether the message may have
 *    been published all the same (`RoomcastError.outcome`).
 *  - After `unsubscribe()` is called, no message of the room is reported any more.
 *  - A token is renewed on the living connection, before it ends. One that is refused is asked for once more, and then
 *    the client stops and says why. Tokens stand in no URL, in no error and in no `frame` event.
 *  - Who is in a room is told without oneself, over whichever connection; `MemberList` keeps it without ghosts.
 *  - A server that says `bye` is left before it stops: the next connection is opened, and every room handed over to it,
 *    while the old one goes on. The state stays `live`; messages with an offset are neither lost, doubled nor reordered.
 *    See `Handover` for those without one.
 *  - What the server said is applied before anybody is told of it, so a listener may call any method.
 *
 * `Connection` is one socket from its opening to its end, with the requests in flight on it. `Cursor` is how far a room
 * has been read, `Outbox` holds the publishes that are not settled; both outlive connections. `Handover` is one room
 * between two connections, and `Overlap` what both of them may report of it. `Credentials` is where tokens come from, and
 * `Grant` what a connection has got for one. `Roomcast` puts them together and knows the rooms; `MemberList` is built on
 * it. It is one file, although a long one, because it is imported and copied as one.
 *
 * @module
 */

const SUBPROTOCOL = "roomcast.v1";
const ROOM_NAME_MAX_BYTES = 255;
const USER_NAME_MAX_BYTES = 128;
const KEY_MAX_BYTES = 128;

const REQUEST_TIMEOUT_MS = 10_000;
/** From the first packet to `welcome`; a half-open network must not hold up the next attempt. */
const CONNECT_TIMEOUT_MS = 10_000;
/** From `publish()` to its end. Far less than the time for which a server remembers keys (300 s unless configured). */
const PUBLISH_TIMEOUT_MS = 30_000;
/** More than an application has unanswered in earnest; it keeps a loop that never waits from filling the memory. */
const UNSETTLED_PUBLISHES_MAX = 10_000;
const BACKOFF_FIRST_MS = 500;
const BACKOFF_CAP_MS = 15_000;
/** Bound of the first wait when a server has closed all its clients at one moment; RFC 6455, section 7.2.3, has it too. */
const BACKOFF_TOGETHER_MS = 5_000;
/** After `bye` the next connection is opened at most so long before the end of this one, … */
const SUCCESSION_LEAD_MS = 2_000;
/** … and at least this part of it: more jitter would make the load on the other servers less even than it comes. */
const SUCCESSION_LEAD_LEAST = 0.85;
/** For messages without an offset: so far one node may be behind another without a loss or a repetition. */
const OVERLAP_MS = 250;
/** Per room. The latest are the ones that are repeated. */
const OVERLAP_MESSAGES_MAX = 1_000;
/** A browser hides the server's pings, so silence is judged by frames alone: that many heartbeats, then one question. */
const SILENCE_IN_HEARTBEATS = 1.5;
const PROBE_TIMEOUT_MS = 5_000;
const PROBE_ID = 0;
/** One token at a time is shown on a connection. */
const AUTH_ID = -1;
/** A server says `welcome` at once, or it waits for a token. Then a question is answered with what is the matter. */
const WELCOME_PROMPT_MS = 500;

/** A token is renewed after this part of what remains of it, or 5 % sooner or later, so that many do not meet, … */
const RENEWAL_PART = 0.8;
const RENEWAL_JITTER = 0.05;
/** … and so long before its end if it can be. */
const RENEWAL_LEAD_MS = 5_000;
/** What has less to live than this on arrival is worth no calculation: the clocks differ, or the tokens are stale. */
const RENEWAL_LEAST_MS = 1_000;
/** After such a one the next is asked for at once, then after this, and after twice as long each time. */
const RENEWAL_PACE_FIRST_MS = 15_000;
const RENEWAL_PACE_CAP_MS = 240_000;
/** A session's end is seen this much before or after the token's. */
const EXPIRY_TOLERANCE_MS = 2_000;
/** The longest that a timer can be set for. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** Own messages that come back from history are known by these. */
const SESSIONS_MAX = 1_000;
/** A server lists so many members of a room. */
const LISTED_MAX = 1_000;

const CLOSE_NORMAL = 1000;
const CLOSE_GOING_AWAY = 1001;
const CLOSE_ABNORMAL = 1006;
const CLOSE_POLICY = 1008;
const CLOSE_TOO_BIG = 1009;
const CLOSE_SERVICE_RESTART = 1012;
/** Ours, towards the server: the connection was given up for being silent. */
const CLOSE_SILENT = 4000;

/** Codes after which the same call may succeed later, unchanged. */
const RETRYABLE_CODES = new Set([
  "unavailable", "rate_limited", "internal", "disconnected", "timeout", "queue_full", "no_token",
]);

const CLOSED = "the client is closed";
const PROBE = JSON.stringify({ type: "PING", id: PROBE_ID });
/** Stands for a token wherever one could be seen. */
const TOKEN_SHOWN = "…";
/** Of a close frame, by RFC 6455. */
const CLOSE_REASON_MAX_BYTES = 123;

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
 * @property {string} [session]  the publishing session
 * @property {boolean} own       published by this client, over this connection or an earlier one
 * @property {number} [time]     Unix milliseconds
 * @property {number} [offset]   position in the room; absent where the server keeps no history, and on messages that
 *   others wrote to its Redis themselves
 * @property {string} [epoch]    names the numbering that `offset` belongs to
 * @property {boolean} replayed  from history: published before the room was joined (again)
 *
 * @typedef {object} Position    what the server answers to subscribe() and publish()
 * @property {string} room
 * @property {number} [offset]   only where the server keeps history
 * @property {string} [epoch]    names the numbering that `offset` belongs to
 *
 * @typedef {object} Recovery
 * @property {boolean} [recovered]  true: nothing is missing since the position that was to be gone on from. false:
 *   something may be, and `gap` follows. Absent: there was nothing to go on from.
 * @property {boolean} rejoin       the client has joined by itself, on a new connection
 *
 * @typedef {Position & Recovery} SubscribedDetail
 * @typedef {{room: string}} RoomDetail
 *
 * @typedef {object} UnsubscribedDetail
 * @property {string} room
 * @property {boolean} removed   by the server: the room is not wanted any more, also on later connections
 *
 * @typedef {object} Member
 * @property {string} session
 * @property {string} [user]     absent if it is anonymous
 *
 * @typedef {{room: string, member: Member}} MemberDetail
 *
 * @typedef {object} MembersDetail  what the server answers to members()
 * @property {string} room
 * @property {number} count      of all, this client included if it is one
 * @property {Member[]} members  1,000 of them at most, in no particular order
 *
 * @typedef {object} GapDetail   no numbers where the server keeps no history
 * @property {string} room
 * @property {number} [after]    offset of the last message before the gap, in the epoch that was known until now
 * @property {number} [offset]   where the room goes on: live messages have higher offsets
 * @property {string} [epoch]    the numbering that `offset` belongs to
 *
 * @typedef {{direction: "in" | "out", text: string}} FrameDetail
 * @typedef {{closesInMs: number}} ByeDetail
 *
 * @typedef {object} RoomcastEventMap    event name to the event's `detail`
 * @property {StateDetail} state         also `live` after `live`, when the connection, and with it `session`, is another
 * @property {MessageDetail} message
 * @property {SubscribedDetail} subscribed  a room is joined, for the first time or again
 * @property {UnsubscribedDetail} unsubscribed  a room is left, by wish or by the server
 * @property {MemberDetail} joined       another session is a member of a room that was joined with `presence`
 * @property {MemberDetail} left         it is not any more
 * @property {RoomcastError} error       an error that belongs to no call, or a failed attempt to join a room again
 * @property {GapDetail} gap             messages of a joined room may be missing between those before and those after
 * @property {ByeDetail} bye             the server is about to stop; the client changes to another connection by itself
 * @property {FrameDetail} frame         every text frame, with tokens left out, for developer tools
 *
 * @typedef {object} RoomcastOptions
 * @property {string} [user]             display name, sent as `?user=`; servers that check tokens ignore it
 * @property {string | TokenSource} [token]  for a server that checks tokens. A function is asked for each connection, and
 *   again before the token ends; one that gives nothing connects without.
 * @property {typeof WebSocket} [WebSocket]  the implementation; default: the global one
 * @property {number} [requestTimeout]   milliseconds to wait for a reply; default 10,000
 * @property {number} [connectTimeout]   milliseconds to wait for `welcome`; default 10,000
 * @property {number} [publishTimeout]   milliseconds that a publish may take, with waiting and repeating; default 30,000
 * @property {number} [backoffFirst]     upper bound of the first wait in milliseconds; doubles per attempt; default 500
 * @property {number} [backoffCap]       upper bound of every wait in milliseconds; default 15,000
 *
 * @typedef {(why: {reason: TokenReason}) => string | null | undefined | Promise<string | null | undefined>} TokenSource
 *
 * @typedef {"connect" | "renew" | "rejected"} TokenReason
 *   `connect`: for a connection; a token that is kept will do. `renew`: the one in use ends soon. `rejected`: the server
 *   has refused the one before, so it must be another.
 *
 * @typedef {object} SubscribeOptions    of the call that makes the room wanted; on a wanted room only `presence` counts
 * @property {boolean} [presence]  be listed as a member, and be told of the others; default false
 * @property {number} [history]  begin with the last so many messages; also when a later join cannot go on where it was
 * @property {number} [after]    begin after this offset of `epoch`, if the server still can
 * @property {string} [epoch]
 *
 * @typedef {object} PublishOptions
 * @property {string} [key]      1 to 128 bytes; default: a new one. The server publishes a key once per room and user.
 * @property {boolean} [wait]    false: send now or never, once, past those that wait; default true
 *
 * @typedef {"refused" | "unknown"} Outcome
 */

/** Why a call failed: the server's words, or one of this module's own codes. */
export class RoomcastError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{outcome?: Outcome, room?: string, key?: string, cause?: unknown}} [context]
   */
  constructor(code, message, { outcome, room, key, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "RoomcastError";
    /** The server's error code, or `disconnected`, `timeout`, `closed`, `queue_full`, `no_token`. @type {string} */
    this.code = code;
    /**
     * Of a publish only. `refused`: certainly not published. `unknown`: perhaps published. @type {Outcome | undefined}
     */
    this.outcome = outcome;
    /** The room that the failed command was about. @type {string | undefined} */
    this.room = room;
    /** Of a publish only: published again with this key, it is not doubled. @type {string | undefined} */
    this.key = key;
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
 * With a token, which may have to be waited for, it shows that first; the server's welcome follows. A server that refuses
 * it, or demands one where there is none, ends the connection by policy (1008), whether it says so or not.
 *
 * `lost` is reported exactly once, after every request in flight has failed, and not after `dispose()`.
 * A request without an answer casts doubt on the connection: it has to give a sign of life then, or is given up.
 * It never waits for the closing handshake: on a dead network a browser takes minutes to report its end.
 *
 * @typedef {{settle: Settle, timer: any, frame: any, bytes: number, outcome: Outcome}} Request
 *   `outcome`: if the connection were lost now
 *
 * @typedef {object} ConnectionObserver
 * @property {(direction: "in" | "out", text: string) => void} text
 * @property {(connection: Connection) => void} welcomed
 * @property {(connection: Connection, frame: any, isReply: boolean) => void} frame
 * @property {(connection: Connection) => void} settled  a request has got its reply, or none in time
 * @property {(error: RoomcastError) => void} tokenUnused  the server checks none
 * @property {(connection: Connection, code: number, reason: string) => void} lost
 */
class Connection {
  /** Undefined while there is no token yet. @type {WebSocket | undefined} */
  #socket;
  #observer;
  /** @type {Map<number, Request>} */
  #requests = new Map();
  #heartbeatMs = 0;
  #lastInbound = 0;
  /** One timer at a time: for the welcome, then for silence, then for the answer to a probe. @type {any} */
  #watchdog;
  #probing = false;
  /** For the question why there is no welcome. @type {any} */
  #prompt;
  #ended = false;
  #requestTimeoutMs;
  /** @type {typeof WebSocket} */
  #implementation;

  /** The server's first frame but for `authorized`, null before it. @type {any} */
  welcome = null;
  /** What the token is good for; null without one. @type {Grant | null} */
  grant = null;
  /** Why there was no welcome, if that is known. @type {RoomcastError | null} */
  failure = null;
  /** When the server will end it, in Unix milliseconds; undefined until it says `bye`. @type {number | undefined} */
  closesAt;

  /**
   * @param {string} url
   * @param {{WebSocket: typeof WebSocket, connectTimeout: number, requestTimeout: number}} options
   * @param {string | undefined | Promise<string | undefined>} token
   * @param {ConnectionObserver} observer
   */
  constructor(url, options, token, observer) {
    this.url = url;
    this.#observer = observer;
    this.#requestTimeoutMs = options.requestTimeout;
    this.#implementation = options.WebSocket;
    if (token instanceof Promise) this.#openWith(token);
    else this.#open(token);
    this.#watchdog = setTimeout(() => this.#abandon("no welcome in time"), options.connectTimeout);
  }

  /** @param {Promise<string | undefined>} coming */
  async #openWith(coming) {
    try {
      const token = await coming;
      if (!this.#ended) this.#open(token);
    } catch (error) {
      if (error instanceof RoomcastError) this.failure = error;
      this.#abandon(error instanceof RoomcastError ? error.message : String(error));
    }
  }

  /** @param {string | undefined} token */
  #open(token) {
    const socket = new this.#implementation(this.url, [SUBPROTOCOL]);
    socket.onopen = () => this.#opened(token);
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => this.#end(event.code, event.reason);
    // The close event that follows says the same and more, but an EventEmitter without this handler would throw.
    socket.onerror = () => {};
    this.#socket = socket;
  }

  /** @param {string | undefined} token */
  #opened(token) {
    if (token !== undefined) return this.authenticate(token, (error) => error !== null && this.#tokenRefused(error));
    this.#prompt = setTimeout(() => this.#send(PROBE), WELCOME_PROMPT_MS);
  }

  /**
   * Shows a token, the first or another.
   *
   * @param {string} token @param {(error: RoomcastError | null) => void} settle
   */
  authenticate(token, settle) {
    this.request(AUTH_ID, { type: "AUTH", token }, this.#requestTimeoutMs, (error, reply) => {
      if (error === null) this.grant = new Grant(token, reply.expires);
      settle(error);
    });
  }

  /** @param {RoomcastError} error */
  #tokenRefused(error) {
    if (this.#ended) return;
    if (this.welcome !== null) this.#observer.tokenUnused(error);
    else if (error.retryable) this.#abandon(error.message);
    else this.#refused(error);
  }

  /** The server will close, and has said why. @param {RoomcastError} error */
  #refused(error) {
    this.failure = error;
    this.#end(CLOSE_POLICY, error.message);
    this.#socket?.close(CLOSE_NORMAL);
  }

  /** Whether no request waits for its reply. */
  get isIdle() {
    return this.#requests.size === 0;
  }

  /**
   * Sends a command. `settle` gets its reply or its failure, exactly once.
   *
   * @param {number} id
   * @param {any} command
   * @param {number} timeoutMs
   * @param {Settle} settle
   */
  request(id, command, timeoutMs, settle) {
    const frame = { ...command, id };
    const text = JSON.stringify(frame);
    const timer = setTimeout(() => {
      this.#fail(id, "timeout", `no reply within ${timeoutMs / 1000} s`);
      this.#observer.settled(this);
      this.probe();
    }, timeoutMs);
    /** @type {Request} */
    const request = { settle, timer, frame, bytes: utf8.encode(text).length, outcome: "refused" };
    this.#requests.set(id, request);
    const shown = command.type === "AUTH" ? JSON.stringify({ ...frame, token: TOKEN_SHOWN }) : text;
    if (this.#send(text, shown)) request.outcome = "unknown";
  }

  /** Asks the server for a sign of life; without one the connection is given up. */
  probe() {
    if (this.#ended || this.#probing || this.welcome === null) return;
    this.#probing = true;
    const patienceMs = this.#heartbeatMs > 0 ? Math.min(PROBE_TIMEOUT_MS, this.#heartbeatMs) : PROBE_TIMEOUT_MS;
    const askedAt = Date.now();
    clearTimeout(this.#watchdog);
    this.#watchdog = setTimeout(() => {
      this.#probing = false;
      if (this.#lastInbound < askedAt) this.#abandon("the server went silent");
      else this.#watchSilence();
    }, patienceMs);
    this.#send(PROBE);
  }

  /** Closes without a report; requests in flight fail. @param {string} reason */
  dispose(reason) {
    this.#observer = { ...this.#observer, lost: () => {} };
    this.#end(CLOSE_NORMAL, reason);
    this.#socket?.close(CLOSE_NORMAL, reason);
  }

  /** @param {string} text @param {string} [shown] to developer tools @returns {boolean} whether it may arrive */
  #send(text, shown = text) {
    // A socket that is closing already drops the text; the loss then fails the request.
    if (this.#socket?.readyState !== 1) return false;
    this.#socket.send(text);
    this.#observer.text("out", shown);
    return true;
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
    clearTimeout(this.#prompt);
    this.#watchSilence();
    this.#observer.welcomed(this);
  }

  /** @param {any} frame */
  #dispatch(frame) {
    const isAnswerToPrompt = this.welcome === null && frame.id === PROBE_ID;
    if (isAnswerToPrompt && frame.code === "unauthorized") return this.#refused(errorOf(frame, {}));
    const request = this.#requests.get(frame.id);
    if (request !== undefined) this.#forget(frame.id, request);
    // State before promises: the observer learns of the room first, then the caller.
    this.#observer.frame(this, frame, request !== undefined || frame.id === PROBE_ID);
    if (request === undefined) return;
    request.settle(frame.type === "error" ? errorOf(frame, request.frame) : null, frame);
    this.#observer.settled(this);
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
    this.#socket?.close(CLOSE_SILENT, closeReason(reason));
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (this.#ended) return;
    this.#ended = true;
    if (this.#socket !== undefined) this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    clearTimeout(this.#watchdog);
    clearTimeout(this.#prompt);
    if (code === CLOSE_TOO_BIG) this.#failLargestPublish();
    for (const id of [...this.#requests.keys()]) {
      this.#fail(id, "disconnected", "the connection was lost before the server answered");
    }
    this.#observer.lost(this, code, reason);
  }

  /** 1009 names no command. But whichever frame was too big, the biggest one in flight is no smaller: it was refused. */
  #failLargestPublish() {
    const publishes = [...this.#requests].filter(([, request]) => request.frame.type === "sendMessage");
    const [id] = publishes.reduce((a, b) => (b[1].bytes > a[1].bytes ? b : a), publishes[0] ?? []);
    if (id !== undefined) this.#fail(id, "message_too_large", "the message is larger than this server takes", "refused");
  }

  /** @param {number} id @param {string} code @param {string} message @param {Outcome} [outcome] */
  #fail(id, code, message, outcome) {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    this.#forget(id, request);
    request.settle(failureOf(request.frame, code, message, outcome ?? request.outcome));
  }

  /** @param {number} id @param {{timer: any}} request */
  #forget(id, request) {
    clearTimeout(request.timer);
    this.#requests.delete(id);
  }
}

/**
 * Where tokens come from, and when the next one is due.
 *
 * A token that the server refuses is asked for once more; what is refused then is the end.
 */
class Credentials {
  /** @type {string | TokenSource | undefined} */
  #source;
  /** The latest one that was shown to a new connection. */
  #wasRejected = false;
  /** In a row, that ended on arrival. */
  #stillborn = 0;

  /** @param {string | TokenSource | undefined} source */
  constructor(source) {
    if (source !== undefined && typeof source !== "function" && (typeof source !== "string" || source === "")) {
      throw new TypeError("options.token is a string or a function");
    }
    this.#source = source;
  }

  get isRenewable() {
    return typeof this.#source === "function";
  }

  /** @returns {string | undefined | Promise<string | undefined>} */
  forConnection() {
    if (typeof this.#source !== "function") return this.#source;
    return this.ask(this.#wasRejected ? "rejected" : "connect");
  }

  /**
   * @param {TokenReason} reason
   * @returns {Promise<string | undefined>}
   * @throws {RoomcastError} `no_token`
   */
  async ask(reason) {
    // Not before the constructor's caller has its client.
    await undefined;
    /** @type {unknown} */
    let token;
    try {
      token = await /** @type {TokenSource} */ (this.#source)({ reason });
    } catch (cause) {
      throw new RoomcastError("no_token", "no token: the function that gives them has failed", { cause });
    }
    if (token === undefined || token === null) return undefined;
    if (typeof token === "string" && token !== "") return token;
    throw new RoomcastError("no_token", "no token: the function that gives them gave something else");
  }

  accepted() {
    this.#wasRejected = false;
  }

  /**
   * Whether another token may do where the server has ended this connection by policy.
   *
   * @param {Connection} connection @param {string} reason
   */
  isWorthAnother(connection, reason) {
    if (!this.isRenewable) return false;
    // The server may as well have put this session out, which no token mends.
    if (connection.welcome !== null) return /expired/i.test(reason) || (connection.grant?.hasEnded ?? false);
    this.#wasRejected = !this.#wasRejected;
    return this.#wasRejected;
  }

  /** Milliseconds until the next token should be had. @param {Grant} grant */
  renewalDelay({ remainingMs }) {
    if (remainingMs < RENEWAL_LEAST_MS) {
      this.#stillborn += 1;
      if (this.#stillborn === 1) return 0;
      return Math.min(RENEWAL_PACE_FIRST_MS * 2 ** (this.#stillborn - 2), RENEWAL_PACE_CAP_MS);
    }
    this.#stillborn = 0;
    const part = RENEWAL_PART + RENEWAL_JITTER * (2 * Math.random() - 1);
    const delayMs = Math.max(remainingMs / 2, Math.min(remainingMs * part, remainingMs - RENEWAL_LEAD_MS));
    return Math.min(delayMs, TIMER_MAX_MS);
  }
}

/**
 * A token that the server has accepted, and when it ends.
 *
 * The end is told in the server's time, of which nothing is known but that the token had been issued (`iat`) when it was
 * accepted. A clock that contradicts that is behind by at least so much. One that is ahead shows as a token that has
 * ended before it came.
 */
class Grant {
  /** In this computer's time; Infinity if it never ends. */
  #endsAt;

  /** @param {string} token @param {unknown} expires Unix milliseconds, if it ends */
  constructor(token, expires) {
    const end = Number.isFinite(expires) ? Number(expires) : Infinity;
    this.#endsAt = end - Math.max(0, issuedAt(token) - Date.now());
  }

  get remainingMs() {
    return this.#endsAt - Date.now();
  }

  get hasEnded() {
    return this.remainingMs <= EXPIRY_TOLERANCE_MS;
  }

  get isEndless() {
    return this.#endsAt === Infinity;
  }
}

/**
 * How far a room has been read: the offset of the last message that was reported, in the epoch that it belongs to.
 *
 *  - Both are undefined where the server keeps no history, and before anything is known.
 *  - Offsets count a room's messages without gaps, so a message that is not above the last one is a repetition.
 *  - A replay of the last n begins at an offset that nobody tells, and may be empty. It comes directly after
 *    `subscribed`, so the next frame decides; until then the cursor stands where the replay may begin.
 */
class Cursor {
  /** @type {number | undefined} */
  offset;
  /** @type {string | undefined} */
  epoch;
  /** The room's last offset when it was joined: what is not above it is history. */
  #top = 0;

  /** @param {{after?: number, epoch?: string}} [position] */
  constructor({ after, epoch } = {}) {
    this.offset = after;
    this.epoch = epoch;
  }

  /** What a SUBSCRIBE needs to go on from here. */
  get resumption() {
    return this.epoch === undefined ? {} : { after: this.offset, epoch: this.epoch };
  }

  /**
   * @param {{offset?: number, epoch?: string, recovered?: boolean}} subscribed
   * @param {number} history  the last so many messages were asked for
   */
  joined({ offset, epoch, recovered }, history) {
    if (offset === undefined || !recovered) this.#jumpTo(offset, epoch, history);
    this.#top = offset ?? 0;
  }

  /**
   * @param {{offset?: number, epoch?: string}} gap
   * @returns {boolean} whether it concerns what has not been read, perhaps over another connection, already
   */
  skip({ offset, epoch }) {
    if (epoch === this.epoch && offset !== undefined && this.offset !== undefined && offset <= this.offset) return false;
    // A gap in the midst of a replay ends it only if what follows is numbered anew.
    if (epoch !== this.epoch) this.#top = 0;
    this.#jumpTo(offset, epoch, 0);
    return true;
  }

  /** Takes note of a message. @param {number | undefined} offset @returns {boolean} whether it is a new one */
  read(offset) {
    if (offset === undefined || this.offset === undefined) return true;
    if (offset <= this.offset) return false;
    this.offset = offset;
    return true;
  }

  /** @param {number | undefined} offset */
  isReplay(offset) {
    return offset !== undefined && offset <= this.#top;
  }

  /** Something else came where a replay would have begun. */
  skipReplay() {
    this.offset = this.#top;
  }

  /** @param {number | undefined} offset @param {string | undefined} epoch @param {number} history */
  #jumpTo(offset, epoch, history) {
    const read = epoch === this.epoch ? this.offset ?? 0 : 0;
    this.epoch = epoch;
    // A server that has lost the end of a room may be behind what was read of it.
    this.offset = offset === undefined ? undefined : Math.max(Math.min(read, offset), offset - history);
  }
}

/**
 * One room on its way from the connection that its server will end to the next one.
 *
 *  - The old connection goes on reporting the room. What the new one says of it, from its `subscribed` on, is held.
 *  - `OVERLAP_MS` later the old connection is asked to leave the room. Its answer, or its end, follows everything that it
 *    had to say; then the new one reports, beginning with what was held.
 *  - What both have said is reported once. An offset tells that exactly: the new connection was asked for everything
 *    after the offset that was the last one then.
 *  - A message without an offset is known again by its text, its sender and its time (see `Overlap`). None is lost or
 *    doubled as long as neither node is more than `OVERLAP_MS` behind the other. Where that cannot be said, because the
 *    old connection ended too early or without a word, the room gets a `gap`.
 */
class Handover {
  /** What the new connection was asked to go on after. @type {{after?: number, epoch?: string}} */
  #asked;
  /** The new connection's `subscribed`, null before it. @type {any} */
  confirmed = null;
  /** What it said of the room since then. @type {any[]} */
  held = [];
  /** id of the UNSUBSCRIBE on the old connection. @type {number | undefined} */
  leave;
  /** For that. @type {any} */
  timer;
  /** Whether the application need not hear of it, because it has not called `subscribe()` meanwhile. */
  isQuiet = true;

  /** @param {Cursor} cursor */
  constructor(cursor) {
    this.#asked = cursor.resumption;
  }

  /** The room is asked for again on the new connection, which has refused it. @param {Cursor} cursor */
  ask(cursor) {
    if (this.confirmed === null) this.#asked = cursor.resumption;
  }

  /** What the new connection says of the room. @param {any} frame */
  hold(frame) {
    if (this.confirmed !== null) this.held.push(frame);
  }

  /**
   * Whether the new connection goes on where the old one has ended.
   *
   * @param {Cursor} cursor        what the old one has reported
   * @param {boolean} isComplete   whether that is all that it had to say since `subscribed`
   */
  goesOn(cursor, isComplete) {
    const { offset, epoch, recovered } = this.confirmed;
    if (epoch !== cursor.epoch) return false;
    if (offset === undefined) return isComplete;
    // Not behind what was asked for: a server that has lost the end of a room numbers other messages alike.
    return recovered === true || (offset >= (this.#asked.after ?? 0) && offset <= (cursor.offset ?? 0));
  }

  /** Whether the new connection was asked for another numbering than the one that is read now. @param {Cursor} cursor */
  isOutdated({ epoch }) {
    return epoch !== this.#asked.epoch;
  }
}

/**
 * The messages without an offset that an old connection has reported of a room while the next one was coming, so that
 * they are known when that repeats them. Each stands for one repetition.
 */
class Overlap {
  /** @type {string[]} */
  #prints = [];
  /** Unix milliseconds; 0 while only the old connection reports. */
  #endsAt = 0;

  begin() {
    this.#prints = [];
    this.#endsAt = 0;
  }

  /** The new connection reports from now on, and may be behind the old one. */
  end() {
    this.#endsAt = Date.now() + OVERLAP_MS;
  }

  /** @param {any} message */
  note(message) {
    this.#prints.push(printOf(message));
    if (this.#prints.length > OVERLAP_MESSAGES_MAX) this.#prints.shift();
  }

  /** @param {any} message */
  repeats(message) {
    if (this.#prints.length === 0) return false;
    // Later, what looks the same is another message.
    if (Date.now() > this.#endsAt) this.#prints = [];
    const known = this.#prints.indexOf(printOf(message));
    if (known >= 0) this.#prints.splice(known, 1);
    return known >= 0;
  }
}

/**
 * The publishes that are not settled, in one lane per room.
 *
 *  - Only the oldest of a lane is on the wire, so that none can overtake one that has to be sent again.
 *  - A failure that may pass is waited out with backoff, a lost connection until there is another.
 *  - Once it is unknown whether an attempt was published, no later refusal makes that certain.
 *
 * @typedef {object} Publish
 * @property {Lane} lane
 * @property {any} command
 * @property {Settle} settle
 * @property {Outcome} outcome              if it should fail now
 * @property {RoomcastError | null} failure of the latest attempt
 * @property {any} timer                    for its end
 *
 * @typedef {object} Lane
 * @property {string} room
 * @property {Publish[]} publishes     oldest first
 * @property {Publish | null} onWire
 * @property {number} failures         in a row
 * @property {any} pause               timer; undefined while there is none
 */
class Outbox {
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  #size = 0;
  #client;

  /**
   * @param {{
   *   isLive: () => boolean,
   *   request: (command: object, settle: Settle) => void,
   *   delay: (failures: number) => number,
   * }} client
   */
  constructor(client) {
    this.#client = client;
  }

  /** @param {any} command @param {number} timeoutMs @param {Settle} settle */
  add(command, timeoutMs, settle) {
    if (this.#size >= UNSETTLED_PUBLISHES_MAX) {
      return settle(failureOf(command, "queue_full", `${this.#size} messages are waiting to be published`, "refused"));
    }
    const lane = this.#lane(command.room);
    /** @type {Publish} */
    const publish = { lane, command, settle, outcome: "refused", failure: null, timer: undefined };
    publish.timer = setTimeout(() => this.#expire(publish, timeoutMs), timeoutMs);
    lane.publishes.push(publish);
    this.#size += 1;
    this.#advance(lane);
  }

  /** Goes on, because a connection is live. */
  resume() {
    for (const lane of [...this.#lanes.values()]) this.#advance(lane);
  }

  /** The client is closed: nothing will be sent any more. */
  clear() {
    for (const { publishes } of [...this.#lanes.values()]) {
      for (const publish of [...publishes]) {
        this.#remove(publish);
        publish.settle(failureOf(publish.command, "closed", CLOSED, publish.outcome));
      }
    }
  }

  /** @param {string} room @returns {Lane} */
  #lane(room) {
    const known = this.#lanes.get(room);
    if (known !== undefined) return known;
    /** @type {Lane} */
    const lane = { room, publishes: [], onWire: null, failures: 0, pause: undefined };
    this.#lanes.set(room, lane);
    return lane;
  }

  /** Sends the oldest of a lane, unless it has to wait. @param {Lane} lane */
  #advance(lane) {
    const [publish] = lane.publishes;
    if (publish === undefined || lane.onWire !== null || lane.pause !== undefined || !this.#client.isLive()) return;
    lane.onWire = publish;
    this.#client.request(publish.command, (error, reply) => this.#answered(publish, error, reply));
  }

  /** @param {Publish} publish @param {RoomcastError | null} error @param {any} [reply] */
  #answered(publish, error, reply) {
    const { lane } = publish;
    // It had to end before its answer came.
    if (lane.onWire !== publish) return;
    lane.onWire = null;
    if (error?.outcome === "unknown") publish.outcome = "unknown";
    if (error?.retryable) {
      publish.failure = error;
      return this.#pause(lane, error);
    }
    lane.failures = 0;
    this.#remove(publish);
    if (error !== null) error.outcome = publish.outcome;
    publish.settle(error, reply);
    this.#advance(lane);
  }

  /** @param {Lane} lane @param {RoomcastError} error */
  #pause(lane, error) {
    const isLoss = error.code === "disconnected";
    // The next connection is pause enough, unless it is lost again and again: perhaps for this very message.
    const failures = isLoss ? lane.failures - 1 : lane.failures;
    lane.failures += 1;
    if (failures < 0) return;
    lane.pause = setTimeout(() => {
      lane.pause = undefined;
      this.#advance(lane);
    }, this.#client.delay(failures));
  }

  /** @param {Publish} publish @param {number} timeoutMs */
  #expire(publish, timeoutMs) {
    const { lane, command, failure } = publish;
    const isOnWire = lane.onWire === publish;
    if (isOnWire) {
      publish.outcome = "unknown";
      lane.onWire = null;
    }
    this.#remove(publish);
    const code = this.#client.isLive() ? failure?.code ?? "timeout" : "disconnected";
    const reason = failure === null ? "" : `: ${failure.message}`;
    const message = `not published within ${timeoutMs / 1000} s${reason}`;
    publish.settle(failureOf(command, code, message, publish.outcome, failure ?? undefined));
    this.#advance(lane);
  }

  /** @param {Publish} publish */
  #remove(publish) {
    const { lane, timer } = publish;
    clearTimeout(timer);
    lane.publishes.splice(lane.publishes.indexOf(publish), 1);
    this.#size -= 1;
    if (lane.publishes.length > 0) return;
    clearTimeout(lane.pause);
    this.#lanes.delete(lane.room);
  }
}

/**
 * What the client knows of one room: whether the application wants it, and which command about it is on its way.
 *
 * @typedef {object} Room
 * @property {string} name
 * @property {boolean} wanted
 * @property {boolean} [presence]      as it was asked for
 * @property {number} wantedSince      commands with lower ids belong to an earlier wish, and so do their replies
 * @property {number} history          the last so many messages, where the cursor is of no use
 * @property {Cursor} cursor
 * @property {Connection | null} source    the connection that it is joined on and that reports it
 * @property {Handover | null} handover    between the retiring connection, its source, and the one that follows
 * @property {Overlap} overlap
 * @property {boolean} everJoined      on any connection, since it is wanted
 * @property {number | null} command   id of the newest SUBSCRIBE or UNSUBSCRIBE in flight
 * @property {number} failures         refusals in a row on this connection, which is never the retiring one
 * @property {any} retryTimer
 * @property {Settle[]} waiting        subscribe() calls made while no connection was up
 * @property {{since: number, callers: Settle[]}} anew  joined anew by the client itself: subscribe() calls that this
 *   overtook, which are those with lower ids, and are answered with the new join
 *
 * @typedef {(error: RoomcastError | null, reply?: any) => void} Settle
 */

/**
 * What tells of events by their detail.
 *
 * @template EventMap
 */
class Reporter extends EventTarget {
  /**
   * Calls `listener` with the detail of each event of this type. What it throws is reported on the console.
   *
   * @template {keyof EventMap & string} T
   * @param {T} type
   * @param {(detail: EventMap[T]) => void} listener
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
}

/**
 * A client for one roomcast server, or for several nodes of one. It connects when constructed and stays connected
 * until `close()`, or until the server closes it for policy (1008).
 *
 * Listen with `on()`, or with `addEventListener()` and read `event.detail`; see {@link RoomcastEventMap}.
 *
 * @extends {Reporter<RoomcastEventMap>}
 */
export class Roomcast extends Reporter {
  /** @type {string[]} */
  #urls;
  #options;
  #credentials;
  /** For the next token on the connection that commands go to. @type {any} */
  #renewalTimer;
  /** @type {Map<string, Room>} */
  #rooms = new Map();
  /** The one that commands go to; while none is live, the attempt to get one. @type {Connection | null} */
  #connection = null;
  /** After `bye`: the attempt to replace it, until it is welcomed. @type {Connection | null} */
  #successor = null;
  /** For the next such attempt. @type {any} */
  #successionTimer;
  #successionFailures = 0;
  /** The one that was replaced, until its rooms are handed over and its requests answered. @type {Connection | null} */
  #retiring = null;
  /** @type {ConnectionState} */
  #state = "connecting";
  #attempt = 0;
  /** @type {number | undefined} */
  #retryAt;
  /** @type {any} */
  #retryTimer;
  #nextUrl;
  /** Never repeats, not even across connections. */
  #nextId = PROBE_ID + 1;
  /** Of the connections so far, oldest first. @type {Set<string>} */
  #sessions = new Set();
  /** Whose replay may begin with the next frame of their source, or be empty. @type {Set<Room>} */
  #replaying = new Set();
  #outbox = new Outbox({
    isLive: () => this.#state === "live",
    request: (command, settle) => this.#request(command, settle),
    delay: (failures) => this.#jittered(failures),
  });
  #onOnline = () => this.#networkIsBack();

  /**
   * @param {string | URL | (string | URL)[]} urls  one URL or several, each with ws:, wss:, http: or https:, or, in a
   *   browser, relative to the page. The first attempt takes any of them, each later one the next.
   * @param {RoomcastOptions} [options]
   * @throws {TypeError} without a URL, with a malformed one, with a token that is none, or without a WebSocket
   *   implementation
   */
  constructor(urls, options = {}) {
    super();
    this.#options = {
      WebSocket: options.WebSocket ?? globalThis.WebSocket,
      requestTimeout: options.requestTimeout ?? REQUEST_TIMEOUT_MS,
      connectTimeout: options.connectTimeout ?? CONNECT_TIMEOUT_MS,
      publishTimeout: options.publishTimeout ?? PUBLISH_TIMEOUT_MS,
      backoffFirst: options.backoffFirst ?? BACKOFF_FIRST_MS,
      backoffCap: options.backoffCap ?? BACKOFF_CAP_MS,
    };
    if (typeof this.#options.WebSocket !== "function") {
      throw new TypeError("no global WebSocket here; pass an implementation as options.WebSocket");
    }
    this.#credentials = new Credentials(options.token);
    this.#urls = [urls].flat().map((url) => socketUrl(url, options.user));
    if (this.#urls.length === 0) throw new TypeError("at least one URL is needed");
    // Or all clients would begin with the same node.
    this.#nextUrl = Math.floor(Math.random() * this.#urls.length);
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
   * On a wanted room, an explicit `presence` begins or ends it; the other options change nothing.
   *
   * @param {string} room
   * @param {SubscribeOptions} [options]
   * @returns {Promise<SubscribedDetail>}
   */
  subscribe(room, options = {}) {
    const refuse = (/** @type {string} */ code, /** @type {string} */ why) =>
      Promise.reject(new RoomcastError(code, why, { room }));
    const problem = roomNameProblem(room);
    if (problem !== null) return refuse("bad_room", problem);
    const unfit = subscribeOptionsProblem(options);
    if (unfit !== null) return refuse("bad_command", unfit);
    if (this.#state === "closed") return Promise.reject(closedError({ room }));
    const wanted = this.#room(room);
    if (!wanted.wanted) this.#want(wanted, options);
    wanted.presence = options.presence ?? wanted.presence;
    return new Promise((resolve, reject) => {
      const settle = settler(resolve, reject, subscribedOf);
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
    this.#abortHandover(left);
    left.source = null;
    const waiting = left.waiting.splice(0);
    for (const settle of waiting) settle(new RoomcastError("cancelled", "the room was left before it was joined", { room }));
    if (this.#state !== "live") {
      this.#forgetRoom(left);
      this.#emit("unsubscribed", { room, removed: false });
      return Promise.resolve({ room });
    }
    return new Promise((resolve, reject) => {
      const settle = settler(resolve, reject, () => ({ room }));
      this.#command(left, [(error, reply) => settle(error?.code === "disconnected" ? null : error, reply)]);
    });
  }

  /**
   * Publishes a message, once. Resolves when the server's broker has accepted it. Needs no subscription.
   *
   * It waits for a connection and for the publishes to this room before it, and is sent again with the same key for as
   * long as its failure may pass, `publishTimeout` in all. With `wait: false` it is sent now, past all that wait, and
   * never again; while not live it is rejected at once (`disconnected`, outcome `refused`).
   *
   * @param {string} room
   * @param {unknown} message  any JSON value, as it is now
   * @param {PublishOptions} [options]
   * @returns {Promise<Position>}
   */
  publish(room, message, { key = newKey(), wait = true } = {}) {
    const refuse = (/** @type {string} */ code, /** @type {string} */ why, /** @type {unknown} */ cause = undefined) =>
      Promise.reject(new RoomcastError(code, why, { room, key, outcome: "refused", cause }));
    const problem = roomNameProblem(room);
    if (problem !== null) return refuse("bad_room", problem);
    if (!isKey(key)) return refuse("bad_command", `a key is a string of 1 to ${KEY_MAX_BYTES} bytes`);
    /** @type {string | undefined} */
    let text;
    try {
      text = JSON.stringify(message);
    } catch (cause) {
      return refuse("bad_command", "the message has no JSON form", cause);
    }
    if (text === undefined) return refuse("bad_command", "the message has no JSON form");
    if (this.#state === "closed") return Promise.reject(closedError({ room, key, outcome: "refused" }));
    if (!wait && this.#state !== "live") return refuse("disconnected", "not connected; nothing was sent");
    // A copy: what the caller does to the message while it waits is of no concern.
    const command = { type: "sendMessage", room, message: JSON.parse(text), key };
    return new Promise((resolve, reject) => {
      const settle = settler(resolve, reject, positionOf);
      if (wait) this.#outbox.add(command, this.#options.publishTimeout, settle);
      else this.#request(command, settle);
    });
  }

  /**
   * Who is in a room, on all nodes: those who joined it with `presence`. Needs no subscription, but the right to it.
   * Asked once and at once: while not live it is rejected (`disconnected`). See `memberList()` for what stays true.
   *
   * @param {string} room
   * @returns {Promise<MembersDetail>}
   */
  members(room) {
    const problem = roomNameProblem(room);
    if (problem !== null) return Promise.reject(new RoomcastError("bad_room", problem, { room }));
    if (this.#state === "closed") return Promise.reject(closedError({ room }));
    if (this.#state !== "live") return Promise.reject(new RoomcastError("disconnected", "not connected", { room }));
    return new Promise((resolve, reject) => {
      this.#request({ type: "MEMBERS", room }, settler(resolve, reject, membersOf));
    });
  }

  /**
   * A list of the others in a room that keeps itself, for as long as the room is joined with `presence`.
   *
   * @param {string} room
   * @returns {MemberList}
   * @throws {RoomcastError} `bad_room`
   */
  memberList(room) {
    const problem = roomNameProblem(room);
    if (problem !== null) throw new RoomcastError("bad_room", problem, { room });
    return new MemberList(this, room, {
      isMember: () => {
        const known = this.#rooms.get(room);
        return known?.presence === true && known.wanted && known.source !== null;
      },
      isOwn: (session) => this.#sessions.has(session),
      delay: (failures) => this.#jittered(failures),
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
    this.#stop();
    this.#emitState({ code: CLOSE_NORMAL, reason: "" });
  }

  #start() {
    globalThis.addEventListener?.("online", this.#onOnline);
    this.#open();
  }

  #stop() {
    globalThis.removeEventListener?.("online", this.#onOnline);
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#successionTimer);
    clearTimeout(this.#renewalTimer);
    this.#retryAt = undefined;
    this.#state = "closed";
    const connections = [this.#connection, this.#successor, this.#retiring];
    this.#connection = this.#successor = this.#retiring = null;
    for (const connection of connections) connection?.dispose("client closed");
    this.#roomsAreGone();
    this.#rejectWaiting();
  }

  #open() {
    clearTimeout(this.#retryTimer);
    const waited = this.#retryAt !== undefined;
    this.#retryAt = undefined;
    try {
      this.#connection = this.#connectionTo(this.#takeUrl());
    } catch (error) {
      // The platform refuses this URL, such as ws: from an https: page. At first it is the caller's to know; later the
      // next URL of the list may do.
      if (!waited) throw error;
      return this.#disconnected(false, { code: CLOSE_ABNORMAL, reason: String(error) });
    }
    if (waited) this.#emitState();
  }

  /** The next one, but not that of a server that is about to stop, if there is another. @param {string} [stopping] */
  #takeUrl(stopping) {
    const next = () => this.#urls[this.#nextUrl++ % this.#urls.length];
    const url = next();
    return url === stopping ? next() : url;
  }

  /** @param {string} url */
  #connectionTo(url) {
    return new Connection(url, this.#options, this.#credentials.forConnection(), {
      text: (direction, text) => this.#emit("frame", { direction, text }),
      welcomed: (connection) => (connection === this.#successor ? this.#succeed(connection) : this.#live(connection)),
      frame: (connection, frame, isReply) => this.#apply(connection, frame, isReply),
      settled: (connection) => connection === this.#retiring && this.#retireWhenDone(),
      tokenUnused: (error) => this.#emit("error", error),
      lost: (connection, code, reason) => this.#lost(connection, code, reason),
    });
  }

  /** @param {Connection} connection */
  #live(connection) {
    this.#attempt = 0;
    this.#state = "live";
    this.#credentials.accepted();
    this.#renewInTime(connection);
    this.#remember(connection.welcome.session);
    for (const room of [...this.#rooms.values()]) this.#command(room, room.waiting.splice(0));
    this.#outbox.resume();
    this.#emitState();
  }

  /** @param {string} session */
  #remember(session) {
    this.#sessions.add(session);
    const [oldest] = this.#sessions;
    if (this.#sessions.size > SESSIONS_MAX) this.#sessions.delete(oldest);
  }

  /** @param {Connection} connection @param {number} code @param {string} reason */
  #lost(connection, code, reason) {
    const { failure } = connection;
    if (code === CLOSE_POLICY && !this.#credentials.isWorthAnother(connection, reason)) {
      this.#stop();
      this.#emitState({ code, reason });
      if (failure !== null) this.#emit("error", failure);
      return;
    }
    if (connection === this.#successor) {
      this.#successor = null;
      this.#succeedLater();
    } else if (connection === this.#retiring) {
      // A server that closes has said everything before.
      this.#oldIsGone(code !== CLOSE_ABNORMAL);
    } else if (this.#retiring !== null) {
      this.#fallBackOn(this.#retiring);
    } else {
      const isOfAll = code === CLOSE_GOING_AWAY || code === CLOSE_SERVICE_RESTART;
      // After `bye` the ends are spread already.
      const isTogether = isOfAll && connection.welcome !== null && connection.closesAt === undefined;
      this.#disconnected(isTogether, { code, reason });
    }
    if (failure?.code === "no_token") this.#emit("error", failure);
  }

  /**
   * @param {boolean} isTogether  whether all clients of the server have lost theirs at this moment
   * @param {{code: number, reason: string}} ending
   */
  #disconnected(isTogether, ending) {
    clearTimeout(this.#successionTimer);
    clearTimeout(this.#renewalTimer);
    // The attempt to replace what is lost now goes on as the attempt to connect again.
    this.#connection = this.#successor;
    this.#successor = null;
    this.#roomsAreGone();
    this.#state = "reconnecting";
    if (this.#connection === null) this.#scheduleRetry(isTogether ? BACKOFF_TOGETHER_MS : 0);
    this.#attempt += 1;
    this.#emitState(ending);
  }

  /** @param {number} leastBoundMs */
  #scheduleRetry(leastBoundMs) {
    const delayMs = this.#jittered(this.#attempt, leastBoundMs);
    this.#retryAt = Date.now() + delayMs;
    this.#retryTimer = setTimeout(() => this.#open(), delayMs);
  }

  /**
   * Full jitter: after a restart thousands of clients come back spread over the whole span.
   *
   * @param {number} failures
   * @param {number} [leastBoundMs]  below `backoffCap` in any case
   */
  #jittered(failures, leastBoundMs = 0) {
    const { backoffFirst, backoffCap } = this.#options;
    return Math.random() * Math.min(backoffCap, Math.max(leastBoundMs, backoffFirst * 2 ** failures));
  }

  #networkIsBack() {
    if (this.#state === "live") this.#connection?.probe();
    else this.connect();
  }

  /* -- tokens -- */

  /** @param {Connection} connection */
  #renewInTime(connection) {
    clearTimeout(this.#renewalTimer);
    const { grant } = connection;
    if (grant === null || grant.isEndless || !this.#credentials.isRenewable) return;
    const delayMs = this.#credentials.renewalDelay(grant);
    this.#renewalTimer = setTimeout(() => this.#renew(connection, "renew", 0), delayMs);
  }

  /**
   * Goes on trying until the connection ends with its token; the next one begins with another.
   *
   * @param {Connection} connection @param {TokenReason} reason @param {number} failures
   */
  async #renew(connection, reason, failures) {
    const error = await this.#renewed(connection, reason);
    // What follows it has its own token.
    if (connection !== this.#connection || this.#state !== "live") return;
    if (error === null) return this.#renewInTime(connection);
    // A token of somebody else: only another connection can take it.
    if (error.code !== "forbidden") {
      const next = error.code === "unauthorized" ? "rejected" : "renew";
      this.#renewalTimer = setTimeout(() => this.#renew(connection, next, failures + 1), this.#jittered(failures));
    }
    this.#emit("error", error);
  }

  /** @param {Connection} connection @param {TokenReason} reason @returns {Promise<RoomcastError | null>} */
  #renewed(connection, reason) {
    return new Promise((settle) => {
      const { requestTimeout } = this.#options;
      let isOver = false;
      const timer = setTimeout(() => {
        isOver = true;
        settle(new RoomcastError("no_token", `no token within ${requestTimeout / 1000} s`));
      }, requestTimeout);
      const ended = (/** @type {RoomcastError} */ error) => {
        clearTimeout(timer);
        settle(error);
      };
      this.#credentials.ask(reason).then((token) => {
        clearTimeout(timer);
        if (isOver || connection !== this.#connection) return settle(closedError({}));
        if (token === undefined) return settle(new RoomcastError("no_token", "no token to go on with"));
        connection.authenticate(token, settle);
      }, ended);
    });
  }

  /* -- changing to another connection -- */

  /**
   * The server spreads the ends of its connections evenly. To connect shortly before one's own keeps the new connections
   * as even; the jitter parts those whose ends fall together.
   *
   * @param {Connection} connection @param {any} frame
   */
  #bye(connection, { closes_in_ms: closesInMs }) {
    const isNews = connection === this.#connection && connection.closesAt === undefined;
    if (isNews) {
      const remainingMs = Number.isFinite(closesInMs) ? Math.max(0, closesInMs) : 0;
      connection.closesAt = Date.now() + remainingMs;
      const part = SUCCESSION_LEAD_LEAST + (1 - SUCCESSION_LEAD_LEAST) * Math.random();
      const leadMs = Math.round(Math.min(remainingMs, SUCCESSION_LEAD_MS) * part);
      this.#successionFailures = 0;
      this.#openSuccessorIn(remainingMs - leadMs, connection);
    }
    this.#emit("bye", { closesInMs });
  }

  /** @param {Connection} stopping */
  #openSuccessor(stopping) {
    // Its own predecessor is not done with yet, and will be soon: it has to end before this one.
    if (this.#retiring !== null) return this.#openSuccessorIn(OVERLAP_MS, stopping);
    for (const room of this.#rooms.values()) room.overlap.begin();
    try {
      this.#successor = this.#connectionTo(this.#takeUrl(stopping.url));
    } catch {
      this.#succeedLater();
    }
  }

  /** An attempt has failed, and the old connection lives: there should be another before its end. */
  #succeedLater() {
    const stopping = this.#connection;
    if (stopping === null) return;
    const remainingMs = (stopping.closesAt ?? 0) - Date.now();
    const boundMs = this.#options.backoffFirst * 2 ** this.#successionFailures;
    const soonMs = Math.max(this.#options.backoffFirst, remainingMs / 2);
    // What should have ended long ago and has not is no reason to hurry.
    const hurriedMs = remainingMs > 0 ? Math.min(boundMs, soonMs) : boundMs;
    const delayMs = Math.random() * Math.min(this.#options.backoffCap, hurriedMs);
    this.#successionFailures += 1;
    this.#openSuccessorIn(delayMs, stopping);
  }

  /** @param {number} delayMs @param {Connection} stopping */
  #openSuccessorIn(delayMs, stopping) {
    clearTimeout(this.#successionTimer);
    this.#successionTimer = setTimeout(() => this.#openSuccessor(stopping), delayMs);
  }

  /**
   * The new connection takes all commands from now on, the old one brings to an end what it has.
   *
   * @param {Connection} successor
   */
  #succeed(successor) {
    this.#retiring = this.#connection;
    this.#connection = successor;
    this.#successor = null;
    this.#credentials.accepted();
    this.#renewInTime(successor);
    this.#remember(successor.welcome.session);
    for (const room of [...this.#rooms.values()]) {
      room.failures = 0;
      if (room.source !== null) room.handover = new Handover(room.cursor);
      // What is being left is left here as well, so that one answer, this connection's, decides.
      this.#command(room, []);
    }
    this.#emitState();
    this.#retireWhenDone();
  }

  #retireWhenDone() {
    const old = this.#retiring;
    if (old === null || !old.isIdle) return;
    for (const room of this.#rooms.values()) if (room.source === old) return;
    this.#retiring = null;
    old.dispose("replaced");
  }

  /** @param {boolean} isComplete whether it has said everything that it had to say */
  #oldIsGone(isComplete) {
    const old = this.#retiring;
    this.#retiring = null;
    for (const room of [...this.#rooms.values()]) {
      if (room.source !== old) continue;
      // Before the overlap was over, it may still have been behind.
      if (room.handover?.confirmed) this.#takeOver(room, isComplete && room.handover.leave !== undefined);
      else room.source = null;
    }
    this.#outbox.resume();
  }

  /** The new connection is lost before the old one: that has to do until the next attempt. @param {Connection} old */
  #fallBackOn(old) {
    this.#connection = old;
    this.#retiring = null;
    this.#renewInTime(old);
    for (const room of [...this.#rooms.values()]) {
      // One that somebody has called subscribe() for meanwhile is asked for here, too.
      const isStaying = room.source === old && room.handover?.leave === undefined && room.handover?.isQuiet;
      this.#endHandover(room);
      room.overlap.begin();
      if (room.wanted && isStaying) continue;
      if (room.source !== old) room.source = null;
      this.#command(room, []);
    }
    this.#succeedLater();
    this.#outbox.resume();
    this.#emitState();
  }

  /** @param {Room} room @param {Handover} handover @param {any} frame */
  #confirm(room, handover, frame) {
    handover.confirmed = { ...frame };
    handover.timer = setTimeout(() => this.#leaveOld(room, handover), OVERLAP_MS);
  }

  /** @param {Room} room @param {Handover} handover */
  #leaveOld({ name }, handover) {
    const timeoutMs = Math.min(this.#options.requestTimeout, PROBE_TIMEOUT_MS);
    handover.leave = this.#nextId++;
    this.#retiring?.request(handover.leave, { type: "UNSUBSCRIBE", room: name }, timeoutMs, (error) => {
      // A loss is told at once, with its code.
      if (error?.code === "disconnected") return;
      const room = this.#rooms.get(name);
      if (room?.handover === handover) this.#takeOver(room, error === null);
    });
  }

  /** The new connection reports the room from here on. @param {Room} room @param {boolean} isComplete */
  #takeOver(room, isComplete) {
    const handover = /** @type {Handover} */ (room.handover);
    const connection = /** @type {Connection} */ (this.#connection);
    this.#endHandover(room);
    room.overlap.end();
    room.source = null;
    if (handover.goesOn(room.cursor, isComplete)) room.source = connection;
    else if (handover.isOutdated(room.cursor)) return this.#joinAnew(room);
    else this.#applySubscribed(connection, handover.confirmed);
    for (const frame of handover.held) {
      // A listener may have left the room.
      if (room.source === connection) this.#apply(connection, frame, false);
    }
  }

  /** Asks for the room again, to go on from where it has been read meanwhile. @param {Room} room */
  #joinAnew(room) {
    room.anew = { since: this.#nextId, callers: [] };
    this.#request({ type: "UNSUBSCRIBE", room: room.name }, () => {});
    // The answers so far are about an earlier position.
    room.wantedSince = this.#nextId;
    this.#command(room, room.anew.callers);
  }

  /** The room is not wanted on the old connection any more either. @param {Room} room */
  #abortHandover(room) {
    if (room.handover === null) return;
    this.#endHandover(room);
    const command = { type: "UNSUBSCRIBE", room: room.name };
    this.#retiring?.request(this.#nextId++, command, this.#options.requestTimeout, () => {});
  }

  /** @param {Room} room */
  #endHandover(room) {
    clearTimeout(room.handover?.timer);
    room.handover = null;
  }

  /* -- what the server says -- */

  /** @param {Connection} connection @param {any} frame @param {boolean} isReply */
  #apply(connection, frame, isReply) {
    this.#noticeEmptyReplay(connection, frame);
    switch (frame.type) {
      case "message":
        return this.#applyMessage(connection, frame);
      case "subscribed":
        return this.#applySubscribed(connection, frame);
      case "unsubscribed":
        return this.#applyUnsubscribed(connection, frame);
      case "gap":
        return this.#applyGap(connection, frame);
      case "joined":
      case "left":
        return this.#applyPresence(connection, frame);
      case "bye":
        return this.#bye(connection, frame);
      case "error":
        return isReply ? undefined : this.#emit("error", errorOf(frame, {}));
      default: // a newer server may say more
    }
  }

  /** @param {Connection} connection @param {any} frame */
  #noticeEmptyReplay(connection, { type, room: name, offset }) {
    // Who comes and goes is no part of the room's order.
    if (type === "joined" || type === "left") return;
    for (const room of this.#replaying) {
      if (room.source !== null && room.source !== connection) continue;
      this.#replaying.delete(room);
      // Left since then, it may be wanted again with another cursor.
      if (room.source === null) continue;
      const isReplay = type === "message" && name === room.name && room.cursor.isReplay(offset);
      if (!isReplay) room.cursor.skipReplay();
    }
  }

  /** @param {Connection} connection @param {any} frame */
  #applyMessage(connection, frame) {
    const { room: name, message, sender, session, time, offset } = frame;
    const room = this.#reportedRoom(connection, frame);
    if (room === null || !this.#isNew(connection, room, frame)) return;
    const { epoch } = room.cursor;
    const numbers = offset === undefined ? {} : { offset, epoch };
    const own = this.#sessions.has(session);
    this.#emit("message", {
      room: name, message, sender, session, own, time, ...numbers, replayed: room.cursor.isReplay(offset),
    });
  }

  /**
   * The room of a frame that is to be reported now, and not later or never.
   *
   * @param {Connection} connection @param {any} frame
   */
  #reportedRoom(connection, frame) {
    const room = this.#rooms.get(frame.room);
    if (room === undefined) return null;
    if (room.source === connection) return room;
    if (connection === this.#connection) room.handover?.hold(frame);
    return null;
  }

  /** @param {Connection} connection @param {Room} room @param {any} frame */
  #isNew(connection, room, frame) {
    if (frame.offset !== undefined) return room.cursor.read(frame.offset);
    if (connection === this.#connection && this.#successor === null) return !room.overlap.repeats(frame);
    // Those that are not unmistakable count only from when the next connection may be in the room as well.
    const isUnmistakable = frame.time !== undefined || frame.member !== undefined;
    if (isUnmistakable || room.handover !== null) room.overlap.note(frame);
    return true;
  }

  /** @param {Connection} connection @param {any} frame */
  #applySubscribed(connection, frame) {
    const room = this.#rooms.get(frame.room);
    if (room === undefined) return;
    if (frame.id === room.command) room.command = null;
    if (!room.wanted || frame.id < room.wantedSince) return;
    if (connection === this.#connection) {
      room.failures = 0;
      clearTimeout(room.retryTimer);
      if (room.handover !== null && this.#handedOver(room, room.handover, frame)) return;
    }
    const after = room.cursor.offset;
    frame.rejoin = room.everJoined && room.source === null;
    if (room.source === null) this.#enter(connection, room, frame);
    // Another connection's answer about a position that the room has left behind.
    else delete frame.recovered;
    this.#emit("subscribed", subscribedOf(frame));
    // Whether the room was left by a listener is seen by `source`.
    if (frame.recovered === false && room.source !== null) this.#emitGap({ ...frame, after });
  }

  /**
   * The new connection is in a room that the old one reports, or has reported until its end.
   *
   * @param {Room} room @param {Handover} handover @param {any} frame
   * @returns {boolean} whether that is all there is to do
   */
  #handedOver(room, handover, frame) {
    if (room.source !== null) {
      if (handover.confirmed === null) this.#confirm(room, handover, frame);
      return handover.isQuiet;
    }
    handover.confirmed = frame;
    this.#endHandover(room);
    room.overlap.end();
    if (handover.goesOn(room.cursor, false)) {
      frame.recovered = true;
      return false;
    }
    if (!handover.isOutdated(room.cursor)) return false;
    this.#joinAnew(room);
    return true;
  }

  /**
   * The room is joined where it was not. Only here `subscribed` moves the cursor: to a repeated SUBSCRIBE the server may
   * name an offset that it has yet to send.
   *
   * @param {Connection} connection @param {Room} room @param {any} frame
   */
  #enter(connection, room, frame) {
    // Asked for on the old connection, answered there, and asked for on the new one as well.
    if (connection === this.#retiring) room.handover = new Handover(room.cursor);
    // Without a position to go on from, which is without history, nothing is recovered. Said in the frame itself, so that
    // listeners and the caller of subscribe() are told the same.
    if (frame.rejoin) frame.recovered = frame.recovered === true;
    room.cursor.joined(frame, room.history);
    room.source = connection;
    room.everJoined = true;
    // What is recovered comes without fail.
    if (frame.recovered !== true && frame.offset !== undefined) this.#replaying.add(room);
  }

  /** @param {Connection} connection @param {any} frame */
  #applyGap(connection, frame) {
    const room = this.#reportedRoom(connection, frame);
    if (room?.cursor.skip(frame)) this.#emitGap(frame);
  }

  /** @param {Connection} connection @param {any} frame */
  #applyPresence(connection, frame) {
    const { type, member } = frame;
    // Of oneself a server tells nothing; but one's earlier session, or the next, is another one to it.
    if (this.#sessions.has(member?.session)) return;
    const room = this.#reportedRoom(connection, frame);
    if (room === null || !this.#isNew(connection, room, frame)) return;
    this.#emit(type, { room: room.name, member: memberOf(member) });
  }

  /** @param {any} gap */
  #emitGap({ room, after, offset, epoch }) {
    this.#emit("gap", { room, after, offset, epoch });
  }

  /** The server's answer, or, without an id, its own decision. @param {Connection} connection @param {any} frame */
  #applyUnsubscribed(connection, frame) {
    const room = this.#rooms.get(frame.room);
    if (room === undefined) return;
    if (room.handover !== null) {
      // The answer to the client's own wish comes with its request.
      if (frame.id === undefined) this.#evicted(room);
      return;
    }
    if (frame.id === room.command) room.command = null;
    if (room.source === connection) room.source = null;
    // A newer SUBSCRIBE is under way: the room is being joined again, its answer decides. Or it is joined on the
    // connection that follows this one.
    if (room.command !== null || room.source !== null) return;
    // An answer to an earlier wish, or about the connection that is given up anyway.
    if (frame.id !== undefined && (room.wanted || connection !== this.#connection)) return;
    const removed = room.wanted;
    this.#forgetRoom(room);
    this.#emit("unsubscribed", { room: frame.room, removed });
  }

  /** Put out on one of its two connections, it is left on both. @param {Room} room */
  #evicted(room) {
    this.#forgetRoom(room);
    this.#request({ type: "UNSUBSCRIBE", room: room.name }, () => {});
    this.#emit("unsubscribed", { room: room.name, removed: true });
  }

  /** Tells the server the wish for a room. @param {Room} room @param {Settle[]} callers */
  #command(room, callers) {
    clearTimeout(room.retryTimer);
    const command = room.wanted ? subscribeCommand(room) : { type: "UNSUBSCRIBE", room: room.name };
    if (callers.length === 0) room.handover?.ask(room.cursor);
    else if (room.handover !== null) room.handover.isQuiet = false;
    /** @type {Settle} */
    const settle = (error, reply) => {
      // By the client's own wish alone, and the room is being joined again.
      const isOvertaken = error?.code === "cancelled" && room.wanted && id < room.anew.since;
      if (isOvertaken) return void room.anew.callers.push(...callers);
      // The old connection still reports the room, and there will be another attempt.
      const isHarmless = room.source !== null && room.handover?.isQuiet && error?.retryable;
      const unexpected = error !== null && this.#commandFailed(room, id, error);
      for (const caller of callers) caller(error, reply);
      if (unexpected && callers.length === 0 && !isHarmless) this.#emit("error", error);
    };
    const id = this.#nextId++;
    room.command = id;
    this.#connection?.request(id, command, this.#options.requestTimeout, settle);
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
    const room = {
      name,
      wanted: false,
      wantedSince: 0,
      history: 0,
      cursor: new Cursor(),
      source: null,
      handover: null,
      overlap: new Overlap(),
      everJoined: false,
      command: null,
      failures: 0,
      retryTimer: undefined,
      waiting: [],
      anew: { since: 0, callers: [] },
    };
    this.#rooms.set(name, room);
    return room;
  }

  /** @param {Room} room @param {SubscribeOptions} options */
  #want(room, { history = 0, after, epoch }) {
    room.wanted = true;
    room.presence = undefined;
    room.wantedSince = this.#nextId;
    room.history = history;
    room.cursor = new Cursor({ after, epoch });
    room.everJoined = false;
  }

  /** @param {Room} room */
  #forgetRoom(room) {
    clearTimeout(room.retryTimer);
    this.#abortHandover(room);
    room.wanted = false;
    room.source = null;
    this.#rooms.delete(room.name);
  }

  /** A session that ends leaves its rooms: those being left are left, the wanted ones start over. */
  #roomsAreGone() {
    for (const room of [...this.#rooms.values()]) {
      clearTimeout(room.retryTimer);
      this.#endHandover(room);
      room.overlap.begin();
      room.source = null;
      room.command = null;
      room.failures = 0;
      if (room.wanted) continue;
      this.#forgetRoom(room);
      this.#emit("unsubscribed", { room: room.name, removed: false });
    }
  }

  #rejectWaiting() {
    for (const room of this.#rooms.values()) {
      for (const settle of room.waiting.splice(0)) settle(closedError({ room: room.name }));
    }
    this.#outbox.clear();
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

/**
 * The others in a room, and how many are in it.
 *
 *  - It follows the room for as long as that is joined with `presence`, over reconnects and changes of server, and is
 *    empty while the room is not wanted. While there is no connection it stays as it was.
 *  - It is read when the room is joined, and again whenever something may have been missed; who comes and goes meanwhile
 *    is applied to what was read. So nobody stays in it who has gone.
 *  - The client itself is counted and not listed, over which connections soever it is in the room.
 *  - A server lists 1,000. Of a larger room it has a part; `isComplete` tells.
 *
 * @typedef {object} MemberListHooks
 * @property {() => boolean} isMember
 * @property {(session: string) => boolean} isOwn
 * @property {(failures: number) => number} delay
 *
 * @typedef {object} MembersChange
 * @property {Member[]} joined   listed from now on
 * @property {Member[]} left     listed until now
 *
 * @typedef {object} MemberListEventMap
 * @property {MembersChange} change  `members`, `count` or `isCurrent` has changed
 * @property {RoomcastError} error   it could not be read; what may pass is tried again
 *
 * @extends {Reporter<MemberListEventMap>}
 */
export class MemberList extends Reporter {
  #client;
  #room;
  /** @type {MemberListHooks} */
  #hooks;
  /** @type {Map<string, string | undefined>} */
  #members = new Map();
  #count = 0;
  /** @type {Member | undefined} */
  #own;
  #isCurrent = false;
  /** What has happened since the list was asked for; null while it is not. @type {{type: string, member: Member}[] | null} */
  #since = null;
  /** Answers to earlier questions are of no interest. */
  #question = 0;
  #failures = 0;
  /** @type {any} */
  #retryTimer;
  /** @type {(() => void)[]} */
  #stops = [];

  /** Use `Roomcast.memberList()`. @param {Roomcast} client @param {string} room @param {MemberListHooks} hooks */
  constructor(client, room, hooks) {
    super();
    this.#client = client;
    this.#room = room;
    this.#hooks = hooks;
    const ofRoom = (/** @type {keyof RoomcastEventMap} */ type, /** @type {(detail: any) => void} */ act) =>
      client.on(type, (detail) => /** @type {any} */ (detail).room === room && act(detail));
    this.#stops = [
      client.on("state", ({ state }) => this.#stateChanged(state)),
      ofRoom("subscribed", () => (this.#hooks.isMember() ? this.#read() : this.#clear())),
      ofRoom("unsubscribed", () => this.#clear()),
      ofRoom("gap", () => this.#hooks.isMember() && this.#read()),
      ofRoom("joined", ({ member }) => this.#moved("joined", member)),
      ofRoom("left", ({ member }) => this.#moved("left", member)),
    ];
    if (this.#hooks.isMember()) this.#read();
  }

  /** Session to user, which is undefined where it is anonymous; oldest first. @type {ReadonlyMap<string, string | undefined>} */
  get members() {
    return this.#members;
  }

  /** This client as the server has listed it last, and so what others see of it. @type {Member | undefined} */
  get own() {
    return this.#own;
  }

  /** Of all, this client included if it is a member. @type {number} */
  get count() {
    return this.#count;
  }

  /** Whether it has been read over this connection. @type {boolean} */
  get isCurrent() {
    return this.#isCurrent;
  }

  /** Whether everybody who is counted is listed. @type {boolean} */
  get isComplete() {
    return this.#count <= this.#members.size + 1;
  }

  /** Follows the room no longer. */
  close() {
    for (const stop of this.#stops.splice(0)) stop();
    this.#stopReading();
  }

  /** @param {ConnectionState} state */
  #stateChanged(state) {
    if (state !== "live") {
      const wasCurrent = this.#isCurrent;
      this.#stopReading();
      this.#isCurrent = false;
      if (wasCurrent) this.#changed([], []);
    } else if (this.#isCurrent || this.#since !== null) {
      // Another connection has taken the place of the one that it was read over, and may have been told other things.
      this.#read();
    }
  }

  async #read() {
    this.#stopReading();
    const question = this.#question;
    this.#since = [];
    try {
      const { count, members } = await this.#client.members(this.#room);
      if (question === this.#question) this.#take(count, members, this.#since);
    } catch (failure) {
      if (question === this.#question) this.#failed(/** @type {RoomcastError} */ (failure));
    }
  }

  #stopReading() {
    clearTimeout(this.#retryTimer);
    this.#question += 1;
    this.#since = null;
  }

  /** @param {RoomcastError} error */
  #failed(error) {
    // The next connection reads it anyway.
    if (error.code === "disconnected" || error.code === "closed") return;
    if (error.retryable) this.#retryTimer = setTimeout(() => this.#read(), this.#hooks.delay(this.#failures));
    this.#failures += 1;
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  /** @param {number} count @param {Member[]} listed @param {{type: string, member: Member}[]} since */
  #take(count, listed, since) {
    this.#since = null;
    this.#failures = 0;
    this.#isCurrent = true;
    this.#own = listed.find(({ session }) => session === this.#client.session);
    const others = listed.filter(({ session }) => !this.#hooks.isOwn(session));
    const next = new Map(others.map(({ session, user }) => [session, user]));
    // Those of one's own earlier sessions that the server has not parted with yet.
    let counted = count - Math.max(0, listed.length - others.length - 1);
    const isCut = count > listed.length;
    for (const { type, member } of since) {
      const isListed = next.has(member.session);
      // Of those who are not listed nobody knows whether they were counted.
      if (!isCut && isListed === (type === "left")) counted += type === "left" ? -1 : 1;
      if (type === "left") next.delete(member.session);
      else next.set(member.session, member.user);
    }
    const before = this.#members;
    // Those who stay keep their place.
    this.#members = new Map([...before.keys()].filter((session) => next.has(session)).map((session) => [session, next.get(session)]));
    for (const [session, user] of next) this.#members.set(session, user);
    this.#count = counted;
    const among = (/** @type {Map<string, string | undefined>} */ some, /** @type {Map<string, string | undefined>} */ others) =>
      [...some].filter(([session]) => !others.has(session)).map(([session, user]) => memberOf({ session, user }));
    this.#changed(among(next, before), among(before, next));
  }

  /** @param {"joined" | "left"} type @param {Member} member */
  #moved(type, member) {
    if (!this.#hooks.isMember()) return;
    this.#since?.push({ type, member });
    const wasListed = this.#members.has(member.session);
    const wasComplete = this.isComplete;
    if (type === "joined") {
      if (wasListed) return;
      this.#members.set(member.session, member.user);
      this.#count += 1;
      return this.#changed([member], []);
    }
    if (!wasListed && wasComplete) return;
    this.#members.delete(member.session);
    this.#count -= 1;
    this.#changed([], wasListed ? [member] : []);
    // The others may be listed now.
    if (!wasComplete && this.#count <= LISTED_MAX && this.#since === null) this.#read();
  }

  #clear() {
    this.#stopReading();
    const left = [...this.#members].map(([session, user]) => memberOf({ session, user }));
    const isNews = this.#isCurrent || left.length > 0;
    this.#members = new Map();
    this.#count = 0;
    this.#own = undefined;
    this.#isCurrent = false;
    if (isNews) this.#changed([], left);
  }

  /** @param {Member[]} joined @param {Member[]} left */
  #changed(joined, left) {
    this.dispatchEvent(new CustomEvent("change", { detail: { joined, left } }));
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
  const { code = "internal", message = "the server gave no reason" } = frame;
  // Whatever the server refuses before the broker saw it is certainly not published; an internal error promises nothing.
  const outcome = frame.outcome ?? (code === "internal" ? "unknown" : "refused");
  return failureOf({ ...command, room: command.room ?? frame.room }, code, message, outcome);
}

/**
 * @param {any} command  whose failure it is
 * @param {string} code
 * @param {string} message
 * @param {Outcome} outcome  counts for a publish
 * @param {RoomcastError} [cause]
 */
function failureOf({ type, room, key }, code, message, outcome, cause) {
  return new RoomcastError(code, message, { room, cause, ...(type === "sendMessage" ? { key, outcome } : {}) });
}

/** @param {{room?: string, key?: string, outcome?: Outcome}} context */
function closedError(context) {
  return new RoomcastError("closed", CLOSED, context);
}

/** @param {Room} room */
function subscribeCommand({ name, history, cursor, presence }) {
  const wishes = { ...(history > 0 ? { history } : {}), ...(presence === undefined ? {} : { presence }) };
  return { type: "SUBSCRIBE", room: name, ...cursor.resumption, ...wishes };
}

/** What is wrong with the options of subscribe(), or null. @param {SubscribeOptions} options */
function subscribeOptionsProblem({ history, after, epoch, presence }) {
  const isCount = (/** @type {unknown} */ value) => Number.isSafeInteger(value) && Number(value) >= 0;
  if (history !== undefined && !isCount(history)) return "history is a number of messages";
  if (presence !== undefined && typeof presence !== "boolean") return "presence is true or false";
  if (after === undefined && epoch === undefined) return null;
  if (!isCount(after) || typeof epoch !== "string") return "a position needs both: after, an offset, and epoch, a string";
  return null;
}

function newKey() {
  // A page without TLS has no randomUUID().
  return crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
}

/** @param {unknown} key */
function isKey(key) {
  return typeof key === "string" && key !== "" && utf8.encode(key).length <= KEY_MAX_BYTES;
}

/** What a message without an offset, or a member's coming or going, is known by. @param {any} frame */
function printOf({ type, member, message, sender, session, time }) {
  return JSON.stringify([type, member?.session, message, sender, session, time]);
}

/** @param {any} frame @returns {Position} */
function positionOf({ room, offset, epoch }) {
  return { room, offset, epoch };
}

/** @param {any} member @returns {Member} */
function memberOf({ session, user }) {
  return user === undefined ? { session } : { session, user };
}

/** @param {any} frame @returns {MembersDetail} */
function membersOf({ room, count, members }) {
  return { room, count, members: members.map(memberOf) };
}

/** When a token says that it was issued, in Unix milliseconds of its issuer; or nothing. @param {string} token */
function issuedAt(token) {
  try {
    const { iat } = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
    return Number.isFinite(iat) ? iat * 1000 : -Infinity;
  } catch {
    return -Infinity; // not that kind of token
  }
}

/** As much of a reason as fits into a close frame. @param {string} reason */
function closeReason(reason) {
  let text = reason;
  while (utf8.encode(text).length > CLOSE_REASON_MAX_BYTES) text = text.slice(0, -1);
  return text;
}

/** @param {any} frame @returns {SubscribedDetail} */
function subscribedOf({ room, offset, epoch, recovered, rejoin }) {
  return { room, offset, epoch, recovered, rejoin: rejoin ?? false };
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
