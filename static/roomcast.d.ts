/**
 * Types of roomcast.js, a client for roomcast servers. What everything means in full is told in docs/client.md.
 */

/**
 * What is wrong with a room name, or null if nothing is: 1 to 255 bytes of UTF-8 without control characters.
 */
export function roomNameProblem(name: unknown): string | null;

/**
 * What is wrong with a display name, or null if nothing is. The empty name is good: it means anonymous.
 */
export function userNameProblem(name: unknown): string | null;

/** Any value that JSON can carry. */
export type JsonValue = string | number | boolean | null | JsonValue[] | { [key: string]: JsonValue };

/** Where the client stands. It reconnects by itself; `closed` is the end until `connect()`. */
export type ConnectionState = "connecting" | "live" | "reconnecting" | "closed";

/** Of a failed publish. `refused`: certainly not published. `unknown`: perhaps published. */
export type Outcome = "refused" | "unknown";

/** The codes that a server answers with, and this module's own. */
export type ErrorCode =
  // of the server
  | "bad_json"
  | "bad_command"
  | "unknown_type"
  | "bad_room"
  | "message_too_large"
  | "room_limit"
  | "rate_limited"
  | "unauthorized"
  | "forbidden"
  | "cancelled"
  | "unavailable"
  | "internal"
  // of this module
  | "disconnected"
  | "timeout"
  | "closed"
  | "queue_full"
  | "no_token";

/** Why a call failed: the server's words, or one of this module's own codes. */
export class RoomcastError extends Error {
  constructor(
    code: ErrorCode | (string & {}),
    message: string,
    context?: { outcome?: Outcome; room?: string; key?: string; cause?: unknown },
  );
  readonly name: "RoomcastError";
  /** The server's error code, or one of this module's own; a newer server may have others. */
  readonly code: ErrorCode | (string & {});
  /** Of a publish only: whether it may have been published all the same. */
  outcome: Outcome | undefined;
  /** The room that the failed command was about. */
  readonly room: string | undefined;
  /** Of a publish only: published again with this key, it is not doubled. */
  readonly key: string | undefined;
  /** What lies behind it, such as that which the token function threw. */
  readonly cause?: unknown;
  /** Whether the same call may succeed later, unchanged. */
  get retryable(): boolean;
}

/**
 * Why a token is asked for. `connect`: for a connection; a token that is kept will do. `renew`: the one in use ends soon.
 * `rejected`: the server has refused the one before, so it must be another.
 */
export type TokenReason = "connect" | "renew" | "rejected";

/** Gives a token. What it throws, or is rejected with, is told by `error`, and it is asked again later. */
export type TokenSource = (why: {
  reason: TokenReason;
}) => string | null | undefined | Promise<string | null | undefined>;

export interface RoomcastOptions {
  /** Display name, sent as `?user=`; a server that checks tokens ignores it. */
  user?: string;
  /**
   * For a server that checks tokens. A function is asked for each connection, and again before the token ends; one that
   * gives nothing connects without. It is shown in the first frame, and is in no URL.
   */
  token?: string | TokenSource;
  /** The WebSocket implementation; default: the global one. */
  WebSocket?: WebSocketConstructor;
  /** Milliseconds to wait for a reply, and for a renewed token; default 10,000. */
  requestTimeout?: number;
  /** Milliseconds to wait for the server's `welcome`, the token included; default 10,000. */
  connectTimeout?: number;
  /** Milliseconds that a publish may take, with waiting and repeating; default 30,000. */
  publishTimeout?: number;
  /** Upper bound of the first wait in milliseconds; doubles per attempt; default 500. */
  backoffFirst?: number;
  /** Upper bound of every wait in milliseconds; default 15,000. */
  backoffCap?: number;
}

/** What is needed of a WebSocket implementation: the browser's, Node's, or that of the package `ws`. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => {
  readonly readyState: number;
  onopen: any;
  onmessage: any;
  onclose: any;
  onerror: any;
  send(text: string): void;
  close(code?: number, reason?: string): void;
};

/** Options of the call that makes a room wanted. On a wanted room only an explicit `presence` changes something. */
export interface SubscribeOptions {
  /** Be listed as a member, and be told of the others (`joined`, `left`); default false. */
  presence?: boolean;
  /** Begin with the last so many messages; also when a later join cannot go on where it was. */
  history?: number;
  /** Begin after this offset of `epoch`, if the server still can; both or neither. */
  after?: number;
  /** The numbering that `after` belongs to. */
  epoch?: string;
}

export interface PublishOptions {
  /** 1 to 128 bytes; default: a new one. The server publishes a key once per room and user. */
  key?: string;
  /** `false`: send now or never, once, past those that wait; default `true`. */
  wait?: boolean;
}

/** A place in a room. Both numbers are absent where the server keeps no history. */
export interface Position {
  room: string;
  /** Counts the room's messages without gaps. */
  offset?: number;
  /** Names the numbering that `offset` belongs to. */
  epoch?: string;
}

export interface SubscribedDetail extends Position {
  /**
   * `true`: nothing is missing since the position that was to be gone on from. `false`: something may be, and `gap`
   * follows. Absent: there was nothing to go on from.
   */
  recovered?: boolean;
  /** The client has joined by itself, on a new connection. */
  rejoin: boolean;
}

export interface RoomDetail {
  room: string;
}

export interface UnsubscribedDetail extends RoomDetail {
  /** By the server: the room is not wanted any more, also on later connections. */
  removed: boolean;
}

/** A session in a room. */
export interface Member {
  session: string;
  /** Absent if it is anonymous. */
  user?: string;
}

export interface MemberDetail extends RoomDetail {
  member: Member;
}

export interface MembersDetail extends RoomDetail {
  /** Of all, this client included if it is a member. */
  count: number;
  /** 1,000 of them at most, in no particular order. */
  members: Member[];
}

export interface StateDetail {
  state: ConnectionState;
  /** Failed attempts since the last `welcome`. */
  attempt: number;
  /** Unix milliseconds of the next attempt; absent while one is under way. */
  retryAt?: number;
  /** WebSocket close code, when a connection has just ended. */
  code?: number;
  /** What the server said about it, perhaps empty. */
  reason?: string;
}

export interface MessageDetail {
  room: string;
  /** Any JSON value. What others wrote has to be checked before it is relied on. */
  message: any;
  /** The publishing session's user, if it has one. */
  sender?: string;
  /** The publishing session. */
  session?: string;
  /** Published by this client, over this connection or an earlier one. */
  own: boolean;
  /** Unix milliseconds. */
  time?: number;
  /** Position in the room; absent without history, and on messages that others wrote to the server's Redis themselves. */
  offset?: number;
  /** Names the numbering that `offset` belongs to. */
  epoch?: string;
  /** From history: published before the room was joined (again). */
  replayed: boolean;
}

/** Messages may be missing. No numbers where the server keeps no history. */
export interface GapDetail extends RoomDetail {
  /** Offset of the last message before the gap, in the epoch that was known until now. */
  after?: number;
  /** Where the room goes on: live messages have higher offsets. */
  offset?: number;
  /** The numbering that `offset` belongs to. */
  epoch?: string;
}

export interface ByeDetail {
  /** So soon the server ends this connection; the client changes to another by itself. */
  closesInMs: number;
}

export interface FrameDetail {
  direction: "in" | "out";
  /** With `…` in the place of a token. */
  text: string;
}

/** Event name to the event's detail. */
export interface RoomcastEventMap {
  /** Also `live` after `live`, when the connection, and with it `session`, is another. */
  state: StateDetail;
  /** A message in a wanted room. */
  message: MessageDetail;
  /** A room is joined, for the first time or again. */
  subscribed: SubscribedDetail;
  /** A room is left, by wish or by the server. */
  unsubscribed: UnsubscribedDetail;
  /** Another session is a member of a room that was joined with `presence`. */
  joined: MemberDetail;
  /** It is not any more. */
  left: MemberDetail;
  /** Messages of a joined room may be missing between those before and those after. */
  gap: GapDetail;
  /** An error that belongs to no call, a failed attempt to join a room again, or what is wrong with the token. */
  error: RoomcastError;
  /** The server is about to stop; the client changes to another connection by itself. */
  bye: ByeDetail;
  /** Every text frame, for developer tools. */
  frame: FrameDetail;
}

/** What tells of events by their detail; with `addEventListener()` it is `event.detail`. */
declare class Reporter<EventMap> extends EventTarget {
  /**
   * Calls `listener` with the detail of each event of this type. What it throws is reported on the console.
   *
   * @returns stops listening
   */
  on<T extends keyof EventMap & string>(type: T, listener: (detail: EventMap[T]) => void): () => void;
}

/**
 * A client for one roomcast server, or for several nodes of one. It connects when constructed and stays connected until
 * `close()`, or until the server ends it for policy (1008) and no other token helps.
 */
export class Roomcast extends Reporter<RoomcastEventMap> {
  /**
   * @param urls one URL or several, each with ws:, wss:, http: or https:, or, in a browser, relative to the page. The first
   *   attempt takes any of them, each later one the next.
   * @throws TypeError without a URL, with a malformed one, with a token that is none, or without a WebSocket
   *   implementation
   */
  constructor(urls: string | URL | (string | URL)[], options?: RoomcastOptions);

  get state(): ConnectionState;
  /** This connection's session id, as in the `session` of its own messages; null while not live. */
  get session(): string | null;
  /** The wanted rooms, joined at present or not. */
  get rooms(): string[];

  /**
   * Joins a room and keeps it joined over reconnects. While not connected it waits for the connection. Rejected with a
   * retryable code, the room stays wanted and the client goes on trying; with any other code it is not wanted any more.
   */
  subscribe(room: string, options?: SubscribeOptions): Promise<SubscribedDetail>;
  /** Leaves a room: from the call on, nothing of it is reported. Resolves at once while not connected. */
  unsubscribe(room: string): Promise<RoomDetail>;
  /**
   * Publishes a message, once. Resolves when the server's broker has accepted it. Needs no subscription. It waits for a
   * connection and is repeated with the same key for as long as its failure may pass, `publishTimeout` in all.
   *
   * @param message any JSON value, as it is now
   */
  publish(room: string, message: unknown, options?: PublishOptions): Promise<Position>;
  /** Who is in a room, on all nodes: those who joined it with `presence`. Rejected at once while not live. */
  members(room: string): Promise<MembersDetail>;
  /**
   * A list of the others in a room that keeps itself, for as long as the room is joined with `presence`.
   *
   * @throws RoomcastError `bad_room`
   */
  memberList(room: string): MemberList;
  /** Connects now instead of at `retryAt`; also revives a closed client, its wanted rooms included. */
  connect(): void;
  /** Ends the connection and stays closed. Requests in flight and waiting calls are rejected. */
  close(): void;
}

export interface MembersChange {
  /** Listed from now on. */
  joined: Member[];
  /** Listed until now. */
  left: Member[];
}

/** Event name to the event's detail. */
export interface MemberListEventMap {
  /** `members`, `count` or `isCurrent` has changed. */
  change: MembersChange;
  /** It could not be read; what may pass is tried again. */
  error: RoomcastError;
}

/**
 * The others in a room, and how many are in it, over reconnects and changes of server; made by `Roomcast.memberList()`.
 * The client itself is counted and not listed.
 */
export class MemberList extends Reporter<MemberListEventMap> {
  private constructor();
  /** Session to user, which is undefined where it is anonymous. */
  get members(): ReadonlyMap<string, string | undefined>;
  /** This client as the server has listed it last, and so what others see of it. */
  get own(): Member | undefined;
  /** Of all, this client included if it is a member. */
  get count(): number;
  /** Whether it has been read over this connection. */
  get isCurrent(): boolean;
  /** Whether everybody who is counted is listed; a server lists 1,000. */
  get isComplete(): boolean;
  /** Follows the room no longer. */
  close(): void;
}

export {};
