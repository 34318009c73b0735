// What the examples in the documents use and do not show.

declare const Roomcast: typeof import("roomcast").Roomcast;
declare const client: import("roomcast").Roomcast;
declare const apiToken: string;
declare function show(text: string): void;
declare function showRetry(error: unknown, again: () => unknown): void;
declare function signInAgain(message: string): void;
declare function fetchToken(): Promise<string>;
declare module "ws" {
  const implementation: import("roomcast").WebSocketConstructor;
  export default implementation;
}
